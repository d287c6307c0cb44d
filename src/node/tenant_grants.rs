//! The grants of one tenant in a snapshot.

use std::{hint::black_box, mem};

use crate::{
    domain::{
        AccessCheck, GrantId, GrantTerms, GroupId, Now,
        decision::{covers, preference},
    },
    store::Retained,
};

/// The number of live grants with a tag. Most tenants have fewer.
const TAGS: usize = 16;

/// The grants of one tenant: all live grants, and the latest ended grant of each group.
///
/// The size matters: the many tenants of a node are in memory that no processor cache holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantGrants {
    /// First the live grants: no event has ended them, but some may have expired. In a complete
    /// snapshot, in the order of [`order`]. Then at most one ended grant for each group, in the
    /// order of groups.
    grants: Vec<GrantTerms>,
    live_count: u32,
    /// The index of the live grant that ends last.
    last_to_end: u32,
    /// The tags of the groups of the first live grants, so that a search reads one cache line
    /// instead of one for each grant.
    tags: [u8; TAGS],
}

impl TenantGrants {
    /// The grants that decide a check: the grants to the groups of the check, each group up to the
    /// first grant that covers the check. If there are none, the live grant that ends last: it
    /// shows that another group has access.
    pub fn candidates<'a>(
        &'a self,
        check: &AccessCheck,
        now: Now,
    ) -> impl Iterator<Item = &'a GrantTerms> {
        let mut of_groups = check.groups.ids().flat_map(move |group_id| {
            let mut is_covered = false;
            let live = self.live_from(group_id).iter().take_while(move |terms| {
                let is_next = !is_covered && terms.group_id == *group_id;
                is_covered = is_next && covers(terms, check, now);
                is_next
            });
            live.chain(self.ended_of(group_id))
        });
        let first = of_groups.next();
        let other = if first.is_none() { self.live().get(self.last_to_end as usize) } else { None };
        first.into_iter().chain(of_groups).chain(other)
    }

    /// Loads the cache line in which a search starts.
    pub fn prefetch(&self) {
        black_box(self.live_count);
    }

    /// Loads the cache line of the grant that probably decides a check.
    pub fn prefetch_candidate(&self, check: &AccessCheck) {
        let live = check.groups.ids().next().map(|group_id| self.live_from(group_id));
        black_box(live.and_then(<[_]>::first).map(|terms| terms.is_expired));
    }

    /// All grants.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Retained, &GrantTerms)> {
        let live = self.live().iter().map(|terms| (Retained::Live, terms));
        live.chain(self.ended().iter().map(|terms| (Retained::LastEnded, terms)))
    }

    /// The item of [`Self::iter`] at `index`.
    pub(super) fn get(&self, index: usize) -> Option<(Retained, &GrantTerms)> {
        let is_live = index < self.live_count as usize;
        let retained = if is_live { Retained::Live } else { Retained::LastEnded };
        self.grants.get(index).map(|terms| (retained, terms))
    }

    /// Adds a live grant of an incomplete snapshot. [`Self::sort`] sorts the grants once.
    pub(super) fn load_live(&mut self, terms: GrantTerms) {
        let index = self.live_count as usize;
        insert(&mut self.grants, index, terms);
        self.live_count += 1;
    }

    /// Adds a live grant of a complete snapshot.
    pub(super) fn insert_live(&mut self, terms: GrantTerms) {
        let index = self.live().partition_point(|known| order(known) < order(&terms));
        insert(&mut self.grants, index, terms);
        self.live_count += 1;
        self.index();
    }

    /// The index of a live grant.
    pub(super) fn find_live(&self, grant_id: GrantId) -> Option<usize> {
        self.live().iter().position(|terms| terms.grant_id == grant_id)
    }

    /// Removes the live grant at `index`.
    pub(super) fn remove_live(&mut self, index: usize) -> GrantTerms {
        let removed = self.grants.remove(index);
        self.live_count -= 1;
        self.index();
        removed
    }

    /// Keeps only that ended grant of the group that decisions prefer: the one that ended last.
    /// Returns the other one.
    pub(super) fn insert_ended(&mut self, terms: GrantTerms) -> Option<GrantTerms> {
        let rank = |terms: &GrantTerms| (terms.end_time(), terms.access_level, terms.grant_id);
        let first = self.live_count as usize;
        match self.grants[first..].iter_mut().find(|known| known.group_id == terms.group_id) {
            Some(known) if rank(known) >= rank(&terms) => Some(terms),
            Some(known) => Some(mem::replace(known, terms)),
            None => {
                let index = self.ended().partition_point(|known| known.group_id < terms.group_id);
                insert(&mut self.grants, first + index, terms);
                None
            }
        }
    }

    /// Removes an ended grant.
    pub(super) fn remove_ended(&mut self, grant_id: GrantId) -> Option<GrantTerms> {
        let index = self.ended().iter().position(|terms| terms.grant_id == grant_id)?;
        Some(self.grants.remove(self.live_count as usize + index))
    }

    /// Sorts the live grants of a snapshot that is now complete.
    pub(super) fn sort(&mut self) {
        let live = &mut self.grants[..self.live_count as usize];
        if !live.is_sorted_by_key(order) {
            live.sort_unstable_by(|a, b| order(a).cmp(&order(b)));
        }
        self.index();
    }

    /// Computes what searches need.
    fn index(&mut self) {
        let live = &self.grants[..self.live_count as usize];
        let last_to_end = (0..).zip(live).min_by_key(|(_, terms)| preference(terms));
        self.last_to_end = last_to_end.map_or(0, |(index, _)| index);
        for (known, terms) in self.tags.iter_mut().zip(live) {
            *known = tag(&terms.group_id);
        }
    }

    fn live(&self) -> &[GrantTerms] {
        &self.grants[..self.live_count as usize]
    }

    fn ended(&self) -> &[GrantTerms] {
        &self.grants[self.live_count as usize..]
    }

    /// The live grants from the first one to `group_id`. If there is none, the slice is empty, or
    /// starts with a later group.
    fn live_from(&self, group_id: &GroupId) -> &[GrantTerms] {
        let live = self.live();
        let start = if live.len() > TAGS {
            live.partition_point(|terms| terms.group_id < *group_id)
        } else {
            let tag = tag(group_id);
            let mut tagged = self.tags.iter().zip(live);
            let is_first =
                |(known, terms): (&u8, &GrantTerms)| *known == tag && terms.group_id == *group_id;
            tagged.position(is_first).unwrap_or(live.len())
        };
        &live[start..]
    }

    fn ended_of(&self, group_id: &GroupId) -> Option<&GrantTerms> {
        let ended = self.ended();
        let index = ended.binary_search_by(|terms| terms.group_id.cmp(group_id)).ok()?;
        ended.get(index)
    }
}

/// A hash of a group. Two groups may have the same tag.
fn tag(group_id: &GroupId) -> u8 {
    group_id.as_str().bytes().fold(0, |tag: u8, byte| tag.wrapping_mul(31).wrapping_add(byte))
}

/// Adds a grant, and reserves little spare capacity: most of the many tenants have few grants.
fn insert(grants: &mut Vec<GrantTerms>, index: usize, terms: GrantTerms) {
    if grants.len() == grants.capacity() {
        grants.reserve_exact(1 + grants.len() / 8);
    }
    grants.insert(index, terms);
}

/// The order of the live grants of a tenant: by group, and then by preference.
fn order(terms: &GrantTerms) -> impl Ord + '_ {
    (&terms.group_id, preference(terms))
}
