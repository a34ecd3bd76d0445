"""Imported first by child processes of these tests: the store needs only the ground floor, and the front door of the
package, which opens every room and imports torch, would cost each child seconds."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

package = ModuleType("lossmith")
package.__path__ = [str(Path(__file__).parents[2] / "src" / "lossmith")]
sys.modules["lossmith"] = package
