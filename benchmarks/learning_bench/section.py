"""The words of the section "Learning" of docs/results.md."""

INTRODUCTION = """## Learning

    {command}

{date}; {machine}; {versions}. This section is written by the script.

**What is real.** The master, whole: draws, requests, replay buffer, scoring, advantages, length reward, batches,
checkpoints and commits; the losses (`tandem_sidecars.megatron.objective`) and micro-batches. **What is not:** a
registry in memory stands for etcd, members that answer at once stand for the switch, and one process with one torch
thread stands for vLLM and Megatron-Core. It speaks their HTTP, samples from the same Qwen2 of 0.3 M parameters by
transformers, and takes Adam's steps by torch; a test holds its weights after an iteration against those of a real
Megatron-Core rank. What `--real` names is run as a real job too: see below.

Each iteration: {problems} problems ({few} for the length reward), {samples} samples each, {steps} optimizer steps,
temperature 1; what is not named here as in the [recipe](recipe.md): tau 0.1, clip 0.2. Accuracy is the chance that one
sample of the policy is right, computed exactly, over held-out problems. "Final" is the mean of the last {last}
iterations, then over seeds; ± is half of what the extreme seeds are apart. Iterations to an accuracy are means over
seeds, "-" where one does not reach it.

**Sweeps.** Each objective has the same budget, at one seed, which no reported run has: three learning rates, then at
the best of them two other values of its own number, tau for eq. (3), the clip for GRPO; REINFORCE has none, and gets
two more rates. The setting with the best accuracy, averaged over the iterations of its sweep, is taken; one at the
edge of what was tried may have a better one beyond it, and one seed cannot tell close ones apart. The length reward and
the strategies of sampling are compared with eq. (3) at the rate that their tables name. Their tasks, the length
reward's weight and its warm-up were chosen by hand, after a few runs of others; those for sampling at seeds of no
table.

{sweeps}"""

OBJECTIVES = """### Objectives

Example 01's task and policy, {seeds} seeds, {iterations} iterations. Eq. (3) with the report's recipe resets the
optimizer in each iteration; REINFORCE and GRPO keep Adam's moments, as their authors have it. Eq. (3) without the
reset tells the loss from the reset.

![Accuracy and reward by iteration]({picture})

{table}
Best in the end: {best}, in accuracy {margin:.3f} before the next; seeds of one method are up to {apart:.3f} apart.
{reset}
{real}"""

REAL = """Dashed in the picture: the same trials, seed 1, once each by `tandem up` with etcd, vLLM and Megatron-Core.
Their random numbers are others, so samples differ. Distance: what the sampled reward is off the mean of the tiny
engine's seeds, mean over iterations; beside it the same of the tiny engine's farthest seed off the mean of its others.
Log-probabilities: the largest difference of vLLM's and Megatron's, nats.

{table}"""
NO_REAL = "No real job has been run.\n"
RESET = "Without the reset eq. (3) ends {gain:+.3f} from where it ends with it, each at the setting of its own sweep.\n"

LENGTH = """### Length reward

Three or four digits to reverse. The policy begins from demonstrations that go on after the answer, for up to
{extra} tokens that the reward does not see: so length is of no use here, and a length that helps to be right is not
tested. Eq. (3), {seeds} seeds, {iterations} iterations; the length reward counts from iteration {first} on
(dotted). Lengths are of whole responses, in tokens; rewards are without the length reward.

![Accuracy and length by iteration]({picture})

{table}
With the length reward the final length is {share:.0%} less than without it and {from_start:.0%} less than at first;
accuracy differs by {difference:+.3f}, {held} the {apart:.3f} that seeds of one setting are apart.
"""

SAMPLING = """### Sampling

Most problems are all but known, as in many sets that a policy is trained on: {num_easy} have {easy} digits to
reverse, of which its demonstrations had {few:.0%} wrong, and {num_hard} have {hard}, with {many:.0%} wrong. Held-out
problems are half of each kind. An iteration draws {problems}, so each problem comes {times:.1f} times on average:
success rates are kept for each problem, and can tell a sampler nothing before it comes again. (In an earlier task each
came three times, and the strategies did not differ.) Eq. (3), {seeds} seeds, {iterations} iterations. "All, then hard
ones alone" is the comparison of the report's section 3.5: a curriculum that draws evenly at first, and after {alone}
iterations what is labelled hard. It is told what prioritised sampling has to find out.

![Accuracy and share of hard problems by iteration]({picture})

{table}
{verdict}
"""
