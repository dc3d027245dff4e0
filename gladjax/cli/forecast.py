"""How long a fit will take: as long as the last of its kind, or as is typical."""

import dataclasses
import hashlib
import math
import time
from typing import Any

from gladjax import cache
from gladjax.backbone import Backbone
from gladjax.cli.saying import say
from gladjax.detector import Settings, augment
from gladjax.programs import Last, compiling

TYPICAL = "efficientnet_lite0", (256, 256)
START, EACH = 7.0, 0.085  # Seconds of a fit and of an image, experiments/performance.
COMPILING = 30.0  # Seconds, where nothing is kept of a fit before.
KEPT = 16  # Fits that are remembered.
LONG = 1e9  # No fit takes so many seconds.


class Forecast:
    """What is known of fits of one kind: network, settings, calibration.

    Args:
      last: What is known of the last fits on this machine.
      network: The backbone.
      settings: Everything that is a number.
      calibration: Where the threshold comes from.
    """

    def __init__(
        self, last: Last, network: Backbone, settings: Settings, calibration: str
    ) -> None:
        """Looks up what is known."""
        known = network.name, tuple(network.image_size)
        kind = repr((known, settings, calibration))
        self._kind = hashlib.sha256(kind.encode()).hexdigest()[:16]
        plain = dataclasses.replace(settings, augment=Settings.augment)
        usual = plain == Settings() and calibration == "left-out"
        self._typical = usual and known == TYPICAL
        self._copies = augment.number(settings.augment, network.image_size)
        self._before = compiling()
        self._last, self._seconds = last, {}
        noted = last.notes.get(self._kind)
        for count, seconds in noted.items() if isinstance(noted, dict) else ():
            if _number(count) and isinstance(seconds, float) and 0 < seconds < LONG:
                self._seconds[int(count)] = seconds

    def seconds(self, count: int) -> float | None:
        """Returns how long a fit will take, to about a factor of two.

        Args:
          count: Number of images.

        Returns:
          Seconds; None for a kind of fit of which nothing is known.
        """
        near = self._near(count)
        if near:
            known = self._seconds[near] * self._usual(count) / self._usual(near)
        elif self._typical:
            known = self._usual(count)
        else:
            return None
        return known if self._kept(count) else known + COMPILING

    def _usual(self, count: int) -> float:
        return START + EACH * count * self._copies

    def _near(self, count: int) -> int:
        """Returns the number of images of the fit most like this one, 0 for none."""
        known = self._seconds
        return min(known, key=lambda n: abs(math.log(n / count)), default=0)

    def _kept(self, count: int) -> bool:
        """Whether the programs of such a fit are kept: fits of like size share them."""
        near = self._near(count)
        return self._last.programs > 0 and 0 < max(near, count) <= 2 * min(near, count)

    def words(self, count: int) -> str:
        """Says so in a line.

        Args:
          count: Number of images.
        """
        expected = self.seconds(count)
        if expected is None:
            return f"{count} images: how long it takes is known after the first time"
        unit = "s" if expected < 100 else "min"
        value = expected if unit == "s" else expected / 60
        once = " the first time" if cache.kept() else ""  # Else nothing is kept of it.
        more = "" if self._kept(count) else f", with what is compiled{once}"
        return f"{count} images: about {value:.0f} {unit}{more}"

    def note(self, count: int, seconds: float) -> None:
        """Notes a fit for the next forecast.

        Args:
          count: Number of images.
          seconds: How long it has taken.
        """
        notes: dict[str, Any] = self._last.notes
        own = {str(n): t for n, t in self._seconds.items() if n != count}
        own[str(count)] = max(seconds - compiling() + self._before, 0.1)
        notes.pop(self._kind, None)
        notes[self._kind] = dict(list(own.items())[-KEPT:])
        for kind in list(notes)[:-KEPT]:
            del notes[kind]


def _number(text: str) -> bool:
    return text.isdecimal() and int(text) > 0


class Course:
    """Says of every fit of a command how long it will take, and notes how long it took.

    Args:
      last: What is known of the last fits on this machine.
      network: The backbone.
      calibration: Where the threshold comes from.
      quiet: Whether nothing is said.
    """

    def __init__(
        self, last: Last, network: Backbone, calibration: str, *, quiet: bool
    ) -> None:
        """Nothing is under way."""
        self._given, self._calibration, self._quiet = (
            (last, network),
            calibration,
            quiet,
        )
        self._now: tuple[Forecast, int, float] | None = None

    def begins(
        self, settings: Settings, count: int, begun: float, *, why: str = ""
    ) -> None:
        """Says how long a fit will take; the one before it has ended.

        Args:
          settings: Everything that is a number.
          count: Number of images.
          begun: When it began (`time.perf_counter`).
          why: Words in front.
        """
        self.ends()
        forecast = Forecast(*self._given, settings, self._calibration)
        self._now = forecast, count, begun
        if not self._quiet:
            say(f"{why}{forecast.words(count)}", err=True)

    def ends(self) -> None:
        """Notes how long the fit has taken."""
        if self._now is not None:
            forecast, count, begun = self._now
            forecast.note(count, time.perf_counter() - begun)
        self._now = None

    def breaks_off(self) -> None:
        """The fit went no further than it had to: how long it took tells nothing."""
        self._now = None
