//! Pages of a list contain each grant exactly once, even while grants are written.

use std::collections::{BTreeSet, HashSet};

use proptest::prelude::*;
use support_access::{
    domain::{GrantId, GrantRequest, GrantState},
    service::page::PageRequest,
    store::{GrantFilter, QueryScope},
};
use tokio::runtime::Builder;

use crate::properties::world::{World, agent, mk_request, reference, tenant};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn pages_contain_each_grant_exactly_once(
        before in 0..40_usize, page_size in 1..9_usize, writes_per_page in 0..5_usize,
    ) {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            let acme = tenant("acme");
            let mut made: Vec<GrantId> = Vec::new();
            for _ in 0..before {
                made.push(world.grant(mk_request(&acme)).await.grant.id());
            }
            let filter = GrantFilter::all(QueryScope::Tenant(acme.clone()));
            let mut seen: Vec<GrantId> = Vec::new();
            let mut page = PageRequest { size: page_size, ..PageRequest::default() };
            loop {
                let got = world.service.list_grants(filter.clone(), &page).await.unwrap();
                assert!(got.items.len() <= page_size);
                seen.extend(got.items.iter().map(|view| view.grant.id()));
                for view in got.items.iter().take(writes_per_page) {
                    world.grant(mk_request(&acme)).await;
                    world.grant(mk_request(&tenant("globex"))).await;
                    let revoked = world.revoke(&reference(view)).await;
                    assert_eq!(revoked.grant.state, GrantState::Revoked);
                }
                if got.next_token.is_empty() {
                    break;
                }
                page.token = got.next_token;
            }
            made.reverse();
            assert_eq!(seen.iter().collect::<HashSet<_>>().len(), seen.len(), "no grant twice");
            assert_eq!(seen, made, "all grants that existed at the start, newest first");
        });
    }
}

/// Clients reject messages of more than 4 MiB. Pages of large grants are shorter than requested.
#[tokio::test]
async fn pages_are_shorter_than_the_message_limit_of_clients() {
    let world = World::new().await;
    let acme = tenant("acme");
    let agent_ids: BTreeSet<_> =
        (0..100).map(|number| agent(&format!("{number:0>127}\u{1F511}"))).collect();
    let large = GrantRequest { agent_ids, ..mk_request(&acme) };
    for _ in 0..400 {
        // Only live grants are limited.
        let made = world.grant(large.clone()).await;
        world.revoke(&reference(&made)).await;
    }
    let filter = GrantFilter::all(QueryScope::Tenant(acme));
    let mut page = PageRequest { size: 1_000, ..PageRequest::default() };
    let mut seen = HashSet::new();
    loop {
        let got = world.service.list_grants(filter.clone(), &page).await.unwrap();
        let bytes: usize = got.items.iter().map(|view| format!("{:?}", view.grant).len()).sum();
        assert!(bytes < 4 << 20, "{bytes} bytes");
        seen.extend(got.items.iter().map(|view| view.grant.id()));
        if got.next_token.is_empty() {
            break;
        }
        page.token = got.next_token;
    }
    assert_eq!(seen.len(), 400);
}
