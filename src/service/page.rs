//! Pages of lists. A page token contains a position and the query to which it belongs.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use crate::{
    domain::violation::{ViolationReason, Violations},
    store::{ListOrder, ListPosition, Listed, PAGE_WEIGHT_MAX, PageBounds},
};

/// The default page size.
pub const SIZE_DEFAULT: usize = 50;
/// The maximum length of a page token. The token of a list of ids is the longest: an id has up to
/// 128 characters of four bytes.
const TOKEN_LENGTH_MAX: usize = 700;
/// The maximum page size.
pub const SIZE_MAX: usize = 1_000;

/// How many of `items` fit into one response; at least one.
pub(super) fn fitting<T>(items: &[T], weight: impl Fn(&T) -> usize) -> usize {
    let mut total = 0;
    let fits = |item: &&T| {
        total += weight(item);
        total <= PAGE_WEIGHT_MAX
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

    /// Converts the items, unless a conversion fails.
    pub(super) fn try_map<U, E>(
        self,
        convert: impl FnMut(T) -> Result<U, E>,
    ) -> Result<Page<U>, E> {
        let Self { items, next_token, resume_token } = self;
        let items = items.into_iter().map(convert).collect::<Result<_, _>>()?;
        Ok(Page { items, next_token, resume_token })
    }
}

/// A digest of a query. A page token is valid for one query only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueryId([u8; 8]);

impl QueryId {
    /// The digest of all filters. The debug output separates adjacent texts.
    pub(super) fn of(filters: impl std::fmt::Debug) -> Self {
        let digest: [u8; 32] = Sha256::digest(format!("{filters:?}")).into();
        Self(std::array::from_fn(|index| digest[index]))
    }

    /// The token of a position.
    pub(super) fn token(self, position: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode([&self.0, position].concat())
    }
}

/// The violation of a token that does not belong to this query.
pub(super) fn invalid_token() -> Violations {
    let description = "must be empty, or a token of a page with the same filters";
    Violations::of("page_token", ViolationReason::Malformed, description)
}

impl PageRequest {
    /// The bounds of the read: one item more than the page, which shows whether there is a next
    /// page.
    pub(super) fn bounds(&self, query: QueryId) -> Result<PageBounds, Violations> {
        let after = self.after(query)?;
        Ok(PageBounds { order: self.order, after, limit: self.size() + 1 })
    }

    fn after(&self, query: QueryId) -> Result<Option<ListPosition>, Violations> {
        let position = self.position(query)?.map(TryInto::try_into).transpose();
        Ok(position.map_err(|_| invalid_token())?.map(ListPosition::from_be_bytes))
    }

    /// The position in the token, in the form in which [`QueryId::token`] received it. A text that
    /// is too long is not decoded.
    pub(super) fn position(&self, query: QueryId) -> Result<Option<Vec<u8>>, Violations> {
        if self.token.is_empty() {
            return Ok(None);
        }
        let is_short = self.token.len() <= TOKEN_LENGTH_MAX;
        let token = if is_short { self.token.as_str() } else { "" };
        let decoded = URL_SAFE_NO_PAD.decode(token).unwrap_or_default();
        match decoded.split_first_chunk() {
            Some((id, position)) if *id == query.0 => Ok(Some(position.to_vec())),
            _ => Err(invalid_token()),
        }
    }

    /// Makes a page of the items that were read within [`Self::bounds`].
    pub(super) fn page<T>(
        &self,
        query: QueryId,
        mut listed: Vec<Listed<T>>,
        weight: impl Fn(&T) -> usize,
    ) -> Result<Page<T>, Violations> {
        let token = |position: ListPosition| query.token(&position.to_be_bytes());
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
