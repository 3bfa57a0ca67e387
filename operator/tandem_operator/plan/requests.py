"""What pods request of their nodes, added up."""

from collections import defaultdict
from collections.abc import Iterable
from decimal import ROUND_CEILING, Decimal

from kubernetes.utils.quantity import parse_quantity

from tandem_operator.plan.objects import PodSpec

Amounts = dict[str, Decimal]


def total_requests(specs: Iterable[PodSpec]) -> dict[str, str]:
    """Return what the containers of all pods request together, by resource, as quantities in their base units.

    A limit without a request is a request too (Kubernetes' own rule).
    """
    total: Amounts = defaultdict(Decimal)
    for spec in specs:
        for container in spec.containers:
            resources = container.resources
            asked = {**(resources.limits or {}), **(resources.requests or {})} if resources else {}
            for name, quantity in asked.items():
                total[name] += parse_quantity(quantity)  # type: ignore[no-untyped-call]
    return {name: _quantity(amount) for name, amount in sorted(total.items())}


def _quantity(amount: Decimal) -> str:
    """Return an amount as Kubernetes writes it: a whole number, or thousandths, rounded up."""
    whole = amount == amount.to_integral_value()
    return str(int(amount)) if whole else f"{int((amount * 1000).to_integral_value(ROUND_CEILING))}m"
