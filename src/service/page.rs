//! Page tokens: where the next page begins, and which query it belongs to.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use crate::domain::{Revision, violation::Violations};

/// The page size for a caller that names none.
pub const SIZE_DEFAULT: usize = 50;
/// The longest text that is looked at as a token; they have 22 characters.
const TOKEN_LENGTH_MAX: usize = 64;
/// The largest page.
pub const SIZE_MAX: usize = 1_000;

/// The most bytes of an answer, estimated: clients refuse one of more than 4 MiB unless they are told otherwise.
const WEIGHT_MAX: usize = 3 * 1_024 * 1_024;

/// How many of `items` fit into one answer, at least one.
pub(super) fn fitting<T>(items: &[T], weight: impl Fn(&T) -> usize) -> usize {
    let mut total = 0;
    let fits = |item: &&T| {
        total += weight(item);
        total <= WEIGHT_MAX
    };
    items.iter().take_while(fits).count().max(1)
}

/// Which page of a list is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// How many at most; 0: [`SIZE_DEFAULT`]. Cut to [`SIZE_MAX`].
    pub size: usize,
    /// Empty: the first.
    pub token: String,
}

/// A page of a list, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// The token of the page after it; empty: there is none.
    pub next_token: String,
}

/// The filters of a query, in short: a token is good for the query that it came from only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueryId([u8; 8]);

impl QueryId {
    /// Of everything that decides what is on the list. `{:?}` of each filter, so that no two texts run together.
    pub(super) fn of(filters: impl std::fmt::Debug) -> Self {
        let digest: [u8; 32] = Sha256::digest(format!("{filters:?}")).into();
        Self(std::array::from_fn(|index| digest[index]))
    }
}

impl PageRequest {
    /// How many to read: one more than fit, which tells whether there is a next page.
    pub(super) fn limit(&self) -> usize {
        self.size() + 1
    }

    /// Where the page begins: before this revision. What is too long to be a token is not one.
    pub(super) fn before(&self, query: QueryId) -> Result<Option<Revision>, Violations> {
        if self.token.is_empty() {
            return Ok(None);
        }
        let is_short = self.token.len() <= TOKEN_LENGTH_MAX;
        let token = if is_short { self.token.as_str() } else { "" };
        let decoded = URL_SAFE_NO_PAD.decode(token).unwrap_or_default();
        match decoded.split_first_chunk() {
            Some((id, rest)) if *id == query.0 && rest.len() == size_of::<Revision>() => {
                let bytes = rest.try_into().unwrap_or_default();
                Ok(Some(Revision::from_be_bytes(bytes)))
            }
            _ => Err(Violations::of(
                "page_token",
                "must be empty, or the next_page_token of a page with the same filters",
            )),
        }
    }

    /// Makes a page of up to [`Self::limit`] items that were read.
    pub(super) fn page<T>(
        &self,
        query: QueryId,
        mut items: Vec<T>,
        key: impl Fn(&T) -> Revision,
        weight: impl Fn(&T) -> usize,
    ) -> Page<T> {
        let size = self.size().min(fitting(&items, weight));
        let has_more = items.len() > size;
        items.truncate(size);
        let last = items.last().filter(|_| has_more);
        let next_token = last.map(|item| {
            let token = [query.0, key(item).to_be_bytes()].concat();
            URL_SAFE_NO_PAD.encode(token)
        });
        Page { items, next_token: next_token.unwrap_or_default() }
    }

    fn size(&self) -> usize {
        if self.size == 0 { SIZE_DEFAULT } else { self.size.min(SIZE_MAX) }
    }
}
