//! Page tokens: where the next page begins, and which query it belongs to.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use crate::{
    domain::violation::Violations,
    store::{ListOrder, ListPosition, Listed, PageBounds},
};

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

/// The page of a list that a caller requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// The order of the list.
    pub order: ListOrder,
    /// The most items. 0: [`SIZE_DEFAULT`]. At most [`SIZE_MAX`].
    pub size: usize,
    /// The token of an earlier page. Empty: the first page.
    pub token: String,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Continues the list. Empty: this is the last page.
    pub next_token: String,
    /// Oldest first only: continues the list after the last item, also on the last page, and then
    /// finds later items. Otherwise empty.
    pub resume_token: String,
}

impl<T> Page<T> {
    /// Converts the items.
    pub(super) fn map<U>(self, convert: impl FnMut(T) -> U) -> Page<U> {
        let Self { items, next_token, resume_token } = self;
        Page { items: items.into_iter().map(convert).collect(), next_token, resume_token }
    }
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
    /// What to read: one item more than fits on the page, which shows whether there is a next page.
    pub(super) fn bounds(&self, query: QueryId) -> Result<PageBounds, Violations> {
        let after = self.after(query)?;
        Ok(PageBounds { order: self.order, after, limit: self.size() + 1 })
    }

    /// The position in the token. A text that is too long is not decoded.
    fn after(&self, query: QueryId) -> Result<Option<ListPosition>, Violations> {
        if self.token.is_empty() {
            return Ok(None);
        }
        let is_short = self.token.len() <= TOKEN_LENGTH_MAX;
        let token = if is_short { self.token.as_str() } else { "" };
        let decoded = URL_SAFE_NO_PAD.decode(token).unwrap_or_default();
        match decoded.split_first_chunk() {
            Some((id, rest)) if *id == query.0 && rest.len() == size_of::<ListPosition>() => {
                let bytes = rest.try_into().unwrap_or_default();
                Ok(Some(ListPosition::from_be_bytes(bytes)))
            }
            _ => Err(Violations::of(
                "page_token",
                "must be empty, or the next_page_token of a page with the same filters",
            )),
        }
    }

    /// Makes a page of the items that were read within [`Self::bounds`].
    pub(super) fn page<T>(
        &self,
        query: QueryId,
        mut listed: Vec<Listed<T>>,
        weight: impl Fn(&T) -> usize,
    ) -> Result<Page<T>, Violations> {
        let token = |position: ListPosition| {
            URL_SAFE_NO_PAD.encode([query.0, position.to_be_bytes()].concat())
        };
        let size = self.size().min(fitting(&listed, |listed| weight(&listed.item)));
        let has_more = listed.len() > size;
        listed.truncate(size);
        let last = listed.last().map(|listed| listed.position);
        let next_token = last.filter(|_| has_more).map(token).unwrap_or_default();
        let resume_token = match self.order {
            ListOrder::NewestFirst => String::new(),
            ListOrder::OldestFirst => token(last.or(self.after(query)?).unwrap_or(0)),
        };
        let items = listed.into_iter().map(|listed| listed.item).collect();
        Ok(Page { items, next_token, resume_token })
    }

    /// The most items of the page.
    pub(super) fn size(&self) -> usize {
        if self.size == 0 { SIZE_DEFAULT } else { self.size.min(SIZE_MAX) }
    }
}
