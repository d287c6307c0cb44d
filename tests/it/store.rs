//! The contract of [`Store`](support_access::store::Store), tested with the memory store, SQLite
//! and PostgreSQL. Further tests cover durability, recovery and schema checks of the databases.

mod bench;
mod chains;
mod changes;
mod clock;
mod contention;
mod ends;
mod enforced;
mod expanded;
mod faults;
mod files;
mod forged_events;
mod forgery;
mod groups;
mod hidden_rows;
mod history;
mod locks;
mod membership;
mod model;
mod notifications;
mod opening;
mod outages;
mod permanence;
mod plans;
mod poolers;
mod reads;
mod removed_events;
mod restores;
mod round_trips;
mod samples;
mod tls;
mod unconfirmed;
mod verification;

use crate::common::{authority, later, postgres, proxy};

/// Runs each case on each store, as a separate test.
macro_rules! suite {
    ($($store:ident { $($module:ident: $($case:ident),* $(,)?;)* })*) => { $(
        mod $store {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::store::$module::$case(&crate::store::bench::Bench::$store()).await;
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
                events_are_read_as_written,
                uncommitted_events_are_visible_in_their_transaction_only,
                a_dropped_transaction_changes_nothing_and_blocks_no_other,
                a_second_transaction_waits_for_a_bounded_time,
                concurrent_transactions_lose_no_update_and_leave_no_gap,
                a_cancelled_transaction_commits_all_events_or_none,
                event_times_never_decrease,
                a_caller_may_set_the_time_of_a_change,
                requests_are_stored_by_tenant_and_part,
                a_transaction_without_events_stores_no_request,
                a_closed_store_is_unavailable;
            ends:
                many_grants_of_a_tenant_are_ended_together;
            groups:
                a_change_that_fails_after_a_write_is_rolled_back_with_its_group,
                a_change_sees_the_earlier_ones_of_its_group,
                random_changes_are_as_if_each_were_alone;
            clock:
                an_accepted_clock_may_be_earlier_and_begins_an_epoch,
                a_dropped_acceptance_changes_nothing,
                the_last_events_of_live_grants_are_read_in_pages;
            reads:
                reads_agree_with_a_naive_model_of_the_log,
                pages_show_each_grant_once_while_others_are_created,
                tenants_do_not_see_each_other;
            membership:
                a_node_is_a_member_until_its_eviction,
                a_second_registration_keeps_the_heartbeat_seq,
                a_heartbeat_returns_the_head_and_whether_the_position_is_in_the_log,
                acknowledgements_never_decrease_and_are_of_this_log,
                a_transaction_knows_the_longest_max_staleness_of_the_members,
                followers_are_kept_until_the_next_write,
                a_new_epoch_is_noticed_by_the_next_heartbeat,
                nodes_send_heartbeats_while_a_transaction_is_open,
                the_trusted_time_never_decreases,
                the_age_of_a_heartbeat_is_measured_by_one_clock;
            enforced:
                an_enforcement_is_listed_with_every_event_of_the_change,
                only_the_first_enforcement_of_a_change_is_kept,
                an_enforcement_is_listed_with_the_events_of_a_grant;
            notifications:
                commits_notify_all_listeners,
                uncommitted_and_rejected_changes_notify_no_listener,
                a_cancelled_wait_loses_no_notification,
                closing_the_store_ends_subscriptions;
            chains:
                every_history_is_a_separate_chain,
                concurrent_histories_are_chained_without_a_gap,
                a_record_never_changes;
            locks:
                locks_are_read_as_written,
                pages_show_each_lock_once_while_others_are_created;
        }
    )* } } };
}

contract!(memory, sqlite, postgres);

/// The cases that durable stores must pass.
macro_rules! durable {
    ($($store:ident),*) => { mod durable { suite! { $(
        $store {
            changes:
                committed_events_survive_a_reopening,
                a_transaction_with_a_cancelled_append_cannot_be_committed,
                a_grant_event_must_be_about_a_live_grant;
            enforced:
                members_and_enforcements_survive_a_reopening;
            chains:
                a_changed_row_is_named_by_the_verifier;
            locks:
                a_lock_event_must_be_about_a_live_lock;
            clock:
                only_an_accepted_clock_decreases_the_time,
                a_forged_trusted_time_changes_no_running_replica,
                a_forged_event_accepts_no_clock,
                the_accepted_time_survives_a_reopening;
            permanence:
                history_is_permanent,
                enums_are_checked;
            verification:
                a_changed_history_is_detected_until_it_is_restored,
                a_truncated_history_is_detected,
                a_rewritten_history_is_detected_by_the_process_that_verified_it_before,
                a_chain_with_an_invalid_tenant_id_is_one_break,
                a_row_that_differs_from_the_history_is_detected_until_it_is_restored;
            forgery:
                intact_rows_are_loaded_as_written,
                a_grant_that_differs_from_its_events_is_not_used,
                locks_are_those_of_the_events,
                a_forged_event_denies_everything_in_its_tenant,
                a_missing_event_denies_everything,
                an_older_state_with_an_older_sum_is_not_used,
                changes_follow_the_events,
                the_event_key_can_be_rotated;
            forged_events:
                every_read_of_a_forged_event_is_reported,
                an_event_of_an_unknown_history_denies_everything,
                a_change_notices_a_removed_or_moved_event,
                a_load_notices_a_removed_or_moved_event,
                a_replica_denies_a_history_until_it_has_loaded_authentic_events,
                a_forged_event_is_in_no_export_and_no_checkpoint;
            removed_events:
                an_extension_of_a_revoked_grant_denies_everything_in_its_tenant,
                an_extension_from_an_older_end_denies_everything_in_its_tenant,
                all_grants_are_revoked_although_rows_of_ended_grants_look_live,
                an_extension_of_a_grant_with_a_forged_row_makes_the_grant_live;
            groups:
                changes_succeed_although_another_change_of_their_group_fails;
            hidden_rows:
                a_hidden_row_is_noticed_before_the_clock_is_accepted;
        }
    )* } } };
}

durable!(sqlite, postgres);
