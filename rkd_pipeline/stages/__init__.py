"""One function per step of the flow: reads its inputs from the store, computes, and writes its result.

What belongs here: which inputs a step reads, what identifies its result, which files it writes. What does not: how
to compute (the modules beside this folder), and Dagster (``assets/``, whose bodies call these functions).

torch, torchvision, scikit-learn and matplotlib take seconds to import; reading a stored result must not. So the
functions that compute import them, and the rest of a module does without.
"""
