"""The cases of a property must depend on the property alone, else a test fails by somebody else's commit.

Hypothesis draws now and then a constant that it finds in the source of our modules, of those that the process
has imported so far. With it one draw differs, and all that follow: the cases then change with every commit that
adds a number anywhere, and a failure in a run of all tests is not there when its file runs alone.
"""

import pytest
from hypothesis.internal.conjecture import providers


def leave_out_constants_of_modules(patch: pytest.MonkeyPatch) -> None:
    """Until the patch is undone. An older Hypothesis does not look for constants."""
    if hasattr(providers, "_get_local_constants"):
        none = providers.Constants()
        patch.setattr(providers, "_get_local_constants", lambda: none)
