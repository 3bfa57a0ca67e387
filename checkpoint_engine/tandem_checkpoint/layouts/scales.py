"""The scales of quantised parameters as parameters beside them, with strips of their own.

So a server holds scales like any other weight. A trainer's rank has none; what it *would* hold, had it quantised its
parameters, is what it hands over: planner, self-test and segment speak of that.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from tandem_checkpoint.architectures import architecture_of
from tandem_checkpoint.architectures.block_scales import FORMAT, SCALE_FORMAT, SCALES, BlockScales
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.layouts.shares import Region, regions_of
from tandem_checkpoint.layouts.strip import Block, LocalParameter, Strip, stacked


def quantised_tensors(policy: PolicyConfig) -> frozenset[str]:
    """Return the names of all matrices that are handed over in FP8."""
    if policy.block_scales is None:
        return frozenset()
    rules = architecture_of(policy.architecture).rules(policy)
    return frozenset(name for rule in rules if rule.is_quantised(policy) for name, _ in rule.tensors(policy))


def handed_over(parameters: Iterable[LocalParameter], policy: PolicyConfig) -> Iterator[LocalParameter]:
    """Yield a trainer's parameters in the formats in which they are handed over, scales after their matrices."""
    quantised, scales = quantised_tensors(policy), policy.block_scales
    for parameter in parameters:
        if scales is None or not any(strip.tensor in quantised for strip in parameter.strips):
            yield parameter
        else:
            yield from with_scales(parameter, scales)


def with_scales(parameter: LocalParameter, scales: BlockScales) -> tuple[LocalParameter, LocalParameter]:
    """Return a parameter in FP8 and its scales. Its boxes are of whole blocks."""
    return replace(parameter, dtype=FORMAT), scales_of(parameter, scales)


def scales_of(parameter: LocalParameter, scales: BlockScales) -> LocalParameter:
    """Return the scales of a parameter: those of each tensor's box, one below the other, experts by themselves."""
    by_leading: dict[tuple[int, ...], list[Strip]] = {}
    for strip in parameter.strips:
        by_leading.setdefault(strip.start[: len(strip.start) - len(strip.tensor_start)], []).append(strip)
    strips = tuple(
        strip for leading, group in by_leading.items() for strip in stacked(_blocks(parameter, group, scales), leading)
    )
    *leading_shape, rows, columns = parameter.shape
    shape = (*leading_shape, *scales.grid((rows, columns)))
    return LocalParameter(parameter.name + SCALES, shape, strips, dtype=SCALE_FORMAT)


def scale_region(region: Region, scales: BlockScales) -> Region:
    """Return the scales of a region; its strips stay those of the matrix that they are made of."""
    start, stop = scales.scales_of(region.start, region.stop)
    return Region(region.tensor + SCALES, start, stop, region.parameter, region.strips)


def _blocks(parameter: LocalParameter, strips: Sequence[Strip], scales: BlockScales) -> Iterator[Block]:
    for region in regions_of([replace(parameter, strips=tuple(strips))]):
        yield Block(region.tensor + SCALES, *scales.scales_of(region.start, region.stop))
