//! What fleets are made of, and where they are.

use std::time::Duration;

/// A place where nodes run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Region {
    pub(super) name: &'static str,
    /// One way to the database; in the first region, also from one machine to the next.
    pub(super) latency: Duration,
}

/// The database is in the first.
pub(super) const REGIONS: [Region; 4] = [
    Region { name: "home", latency: Duration::from_micros(300) },
    Region { name: "30 ms", latency: Duration::from_millis(30) },
    Region { name: "80 ms", latency: Duration::from_millis(80) },
    Region { name: "150 ms", latency: Duration::from_millis(150) },
];

/// One way between machines of two regions: all ways lead through home.
pub(super) fn latency(one: usize, other: usize) -> Duration {
    if one == other { REGIONS[0].latency } else { REGIONS[one].latency.max(REGIONS[other].latency) }
}

/// A fleet, and what happens to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) replicas: usize,
    /// Whether replicas are in all regions, one after the other, or at home.
    pub(super) is_spread: bool,
    /// Sidecars that follow a replica and feed others, in all regions one after the other. None: sidecars follow replicas.
    pub(super) relays: usize,
    /// Sidecars of each replica or relay, in its own region.
    pub(super) sidecars: usize,
    /// How long it is measured, in seconds.
    pub(super) seconds: u32,
    /// Revocations in a second, of which each is followed by a grant. They are made at all replicas in turn.
    pub(super) revocations: f64,
}

impl Plan {
    /// Reads `home 10x100x100` (replicas, relays of each, sidecars of each relay), `home 10x100` (without relays) or `spread 10x100`
    /// (replicas in all regions); and at the end, if they are not one and twenty, the revocations a second, and for how many seconds:
    /// `home 10x100 5 60`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let is_spread = match words.next()? {
            "home" => false,
            "spread" => true,
            _ => return None,
        };
        let numbers: Option<Vec<usize>> =
            words.next()?.split('x').map(|number| number.parse().ok()).collect();
        let revocations = words.next().map_or(Some(1.0), |number| number.parse().ok())?;
        let seconds = words.next().map_or(Some(20), |number| number.parse().ok())?;
        let (replicas, relays, sidecars) = match numbers?[..] {
            [replicas, sidecars] => (replicas, 0, sidecars),
            [replicas, relays, sidecars] => (replicas, relays, sidecars),
            _ => return None,
        };
        Some(Self { replicas, is_spread, relays, sidecars, seconds, revocations })
    }

    /// All nodes.
    pub(super) fn nodes(&self) -> usize {
        let fed = self.replicas * self.relays.max(1) * self.sidecars;
        self.replicas + self.replicas * self.relays + fed
    }

    /// As it was written.
    pub(super) fn name(&self) -> String {
        let Self { replicas, relays, sidecars, .. } = self;
        let place = if self.is_spread { "spread" } else { "home" };
        if self.relays == 0 {
            format!("{place} {replicas}x{sidecars}")
        } else {
            format!("{place} {replicas}x{relays}x{sidecars}")
        }
    }

    /// Where a replica is.
    pub(super) fn region(&self, replica: usize) -> usize {
        if self.is_spread { replica % REGIONS.len() } else { 0 }
    }
}
