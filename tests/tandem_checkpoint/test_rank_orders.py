"""What ranks are told."""

from tandem_api.engine import Sample, TrainRequest
from tandem_checkpoint.switch.rank_orders import train_order


def test_a_rank_is_told_its_share_of_each_step_and_which_iteration_trains_from_the_generation() -> None:
    one, other = (
        Sample(token_ids=(1, mark), first_loss_token=1, sampled_logprobs=(-1.0,), advantage=0.5) for mark in (2, 3)
    )
    request = TrainRequest(
        epoch=9,
        generation=6,
        max_logprob_difference=0.1,
        steps=(((one,), (other,)), ((), (one,))),
        samples_per_step=(2, 1),
    )

    order = train_order(request, share=1)

    assert (order.iteration, order.steps) == (7, ((other,), (one,)))
