"""Figures of the report."""

from dataclasses import asdict, dataclass, field

from load import median, per_run


@dataclass
class Figure:
    """One measured quantity, beside another one."""
    label: str
    unit: str
    ours: list
    # The other quantity and its values. None: ours is compared with the limit.
    beside: str | None = None
    theirs: list = field(default_factory=list)
    # The largest accepted ratio, or the largest accepted value. None: reported only.
    at_most: float | None = None
    # The smallest accepted ratio, for rates.
    at_least: float | None = None

    def ratios(self):
        if len(self.ours) == len(self.theirs):
            return per_run(self.ours, self.theirs)
        return [median(self.ours) / median(self.theirs)] if self.theirs else []

    def ratio(self):
        """The ratio of the medians, or None."""
        return median(self.ours) / median(self.theirs) if self.theirs else None

    def is_met(self):
        """Whether the target is met. None: there is no target."""
        value = self.ratio() if self.theirs else median(self.ours)
        if self.at_most is not None:
            # As precise as the targets are stated.
            return round(value, 2) <= self.at_most
        if self.at_least is not None:
            return round(value, 2) >= self.at_least
        return None

    def to_json(self):
        return asdict(self)
