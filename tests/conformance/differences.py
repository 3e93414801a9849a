"""Where torch's samples meet a documented difference: what xent does instead, and why.

The one list of exceptions. Nothing is skipped: `test_differences.py` asserts each of them, so that a difference that
no longer exists fails.
"""

DIFFERENCES = {
    "float32 losses": (
        "Losses of float16 and bfloat16 inputs are float32; torch rounds them to half. Gradients have the input's "
        "dtype in both. `log_softmax` and `logsumexp` keep torch's dtype."
    ),
    "options": (
        "`linear_cross_entropy(options=…)` tells torch how to chunk. xent has no such argument: the samples run "
        "without it, and are held against torch's unchunked result."
    ),
    "weight derivatives": (
        "torch refuses a derivative for the `weight` of `binary_cross_entropy`, and gives none for that of `nll_loss`; "
        "xent has both, and they are part of the gradient checks."
    ),
    "chunked derivatives": (
        "torch's chunked `linear_cross_entropy` has no second derivative and no forward mode; xent is checked for both "
        "on the chunked samples too."
    ),
    "no counterpart": (
        "torch has no `token_logprobs`: it runs on the class-index samples of `cross_entropy` and "
        '`linear_cross_entropy` without class weights, against −`cross_entropy(reduction="none")`.'
    ),
}
