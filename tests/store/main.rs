//! One suite for every store: what [`Store`](support_access::store::Store) promises, held against the memory store, SQLite
//! and PostgreSQL. Then what only databases promise: to survive, to recover, to refuse what they do not understand.

#![allow(
    unreachable_pub,
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "this is a test, though most of it is in functions that are not marked so"
)]
#![allow(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

#[path = "../common/later.rs"]
mod later;
#[path = "../common/postgres.rs"]
#[allow(dead_code, reason = "other test binaries use the rest")]
mod postgres;
#[path = "../common/proxy.rs"]
#[allow(dead_code, reason = "other test binaries use the rest")]
mod proxy;

mod bench;
mod chains;
mod changes;
mod contention;
mod enforced;
mod expanded;
mod faults;
mod history;
mod locks;
mod membership;
mod model;
mod notifications;
mod opening;
mod outages;
mod permanence;
mod plans;
mod reads;
mod restores;
mod samples;
mod verification;

/// Runs each case on each store, as a test of its own.
macro_rules! suite {
    ($($store:ident { $($module:ident: $($case:ident),* $(,)?;)* })*) => { $(
        mod $store {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::$module::$case(&crate::bench::Bench::$store()).await;
                }
            )*)*
        }
    )* };
}

/// The cases that every store must pass.
macro_rules! contract {
    ($($store:ident),*) => { mod contract { suite! { $(
        $store {
            changes:
                events_are_read_as_they_were_written,
                a_change_sees_what_it_appended_and_nobody_else_does,
                a_dropped_change_leaves_no_trace_and_blocks_nobody,
                while_a_change_is_open_others_wait_but_not_for_ever,
                concurrent_changes_are_all_kept_without_a_gap,
                changes_that_are_cancelled_anywhere_are_made_whole_or_not_at_all,
                time_never_runs_backwards,
                requests_are_stored_by_tenant_and_part,
                a_transaction_without_events_stores_no_request,
                a_closed_store_is_unavailable;
            reads:
                reads_agree_with_a_naive_model_of_the_log,
                pages_show_each_grant_once_while_others_are_made,
                tenants_do_not_see_each_other;
            membership:
                a_node_is_in_the_roll_until_it_is_struck_off,
                registering_again_never_sets_a_node_back,
                a_renewal_tells_the_end_of_the_log_and_whether_the_node_is_in_it,
                acknowledgements_never_go_back_nor_come_from_another_history,
                a_change_knows_how_long_nodes_may_answer_that_registered_before,
                a_report_stays_until_the_next,
                a_new_epoch_is_noticed_by_the_next_heartbeat,
                nodes_go_on_while_a_change_is_made,
                how_long_ago_a_node_renewed_is_told_by_one_clock;
            enforced:
                what_was_enforced_is_told_with_every_event_of_the_change,
                only_the_first_word_on_a_change_is_kept,
                a_record_is_kept_with_an_event_of_a_grant;
            notifications:
                hints_come_with_what_was_committed,
                nobody_is_told_of_what_was_not_done,
                whoever_stops_waiting_and_waits_again_misses_nothing,
                those_who_listen_hear_that_the_store_is_closed;
            chains:
                every_history_is_a_chain_of_its_own,
                histories_that_grow_at_once_are_chained_without_a_gap,
                a_record_never_changes;
            locks:
                locks_are_read_as_they_were_written,
                pages_show_each_lock_once_while_others_are_created;
        }
    )* } } };
}

contract!(memory, sqlite, postgres);

/// The cases for stores that keep what they are given.
macro_rules! durable {
    ($($store:ident),*) => { mod durable { suite! { $(
        $store {
            changes:
                what_was_committed_is_there_after_reopening,
                a_change_that_was_cut_short_cannot_be_committed,
                an_event_must_be_about_a_grant_that_has_not_ended;
            enforced:
                the_roll_and_the_records_are_there_after_reopening;
            chains:
                what_was_changed_in_the_database_is_named;
            locks:
                a_lock_event_must_be_about_a_live_lock;
            permanence:
                history_is_permanent,
                enums_are_checked;
            verification:
                a_changed_history_is_detected_until_it_is_restored,
                a_truncated_history_is_detected,
                a_rewritten_history_is_detected_by_the_process_that_verified_it_before,
                a_chain_with_an_invalid_tenant_id_is_one_break;
        }
    )* } } };
}

durable!(sqlite, postgres);
