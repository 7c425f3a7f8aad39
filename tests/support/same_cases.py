"""The cases of a property must depend on the property alone. Otherwise a test fails because of an unrelated commit.

Now and then, Hypothesis draws a constant from the source of our modules that the process has imported. That changes one
draw and all that follow. The cases would then change with every commit that adds a number anywhere, and a failure in a
run of all tests would not happen when its file runs alone.
"""

import pytest
from hypothesis.internal.conjecture import providers


def leave_out_constants_of_modules(patch: pytest.MonkeyPatch) -> None:
    """Leave the constants out until the patch is undone. An older Hypothesis does not look for constants."""
    if hasattr(providers, "_get_local_constants"):
        none = providers.Constants()
        patch.setattr(providers, "_get_local_constants", lambda: none)
