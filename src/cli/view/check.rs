//! Decisions, and why.

use super::{Answer, Cell, Look, Tone, about, details, grant, level, moment_utc, short, table, v1};

impl Answer for v1::CheckAccessResponse {
    const NAME: &'static str = "CheckAccessResponse";

    fn for_people(&self, look: Look) -> String {
        let is_allowed = self.decision() == v1::Decision::Allowed;
        let decision = short(self.decision().as_str_name(), "DECISION_");
        let tone = if is_allowed { Tone::Good } else { Tone::Bad };
        let mut rows = vec![
            ("Decision", Cell::new(decision).toned(Some(tone))),
            ("Reason", Cell::new(reason(self.reason()))),
            ("Message", Cell::new(&self.message)),
            ("Grant", Cell::new(&self.grant_id)),
        ];
        if !self.lock_id.is_empty() {
            rows.push(("Lock", Cell::new(&self.lock_id)));
        }
        if self.ignored_group_count > 0 {
            let ignored = format!("{} values are not group ids", self.ignored_group_count);
            rows.push(("Ignored", Cell::new(ignored)));
        }
        if is_allowed {
            let end = moment_utc(self.expire_time.as_ref(), "until revoked");
            rows.push(("Level", Cell::new(level(self.access_level()))));
            rows.push(("End", Cell::new(end)));
            rows.push(("Valid for", Cell::new(about(self.valid_for.as_ref()))));
        }
        details(look, &rows)
    }
}

impl Answer for v1::ExplainAccessResponse {
    const NAME: &'static str = "ExplainAccessResponse";

    fn for_people(&self, look: Look) -> String {
        let mut text = self.result.clone().unwrap_or_default().for_people(look);
        text += "\n";
        text += &table(
            look,
            &["CHECKLIST", "ANSWER", "DETAIL"],
            self.checklist.iter().map(checklist_row).collect(),
        );
        if self.candidates.is_empty() {
            return text + "\nThe tenant has no grants.\n";
        }
        text += "\n";
        text += &grant::candidates(look, &self.candidates);
        if self.candidates_truncated {
            text +=
                "\nThere may be more grants; `support-access list`, at a server, shows them all.\n";
        }
        text
    }
}

pub(super) fn reason(reason: v1::DecisionReason) -> &'static str {
    short(reason.as_str_name(), "DECISION_REASON_")
}

fn checklist_row(item: &v1::ChecklistItem) -> Vec<Cell> {
    let question = match item.question() {
        v1::ChecklistQuestion::AccessGranted => "Access has been granted",
        v1::ChecklistQuestion::PeriodNotExpired => "The period has not expired",
        v1::ChecklistQuestion::EntryActive => "The entry is active",
        v1::ChecklistQuestion::CorrectOption => "The correct option was selected",
        v1::ChecklistQuestion::NotLocked => "Nothing is locked",
        v1::ChecklistQuestion::Unspecified => "-",
    };
    let (answer, tone) = match item.answer() {
        v1::ChecklistAnswer::Yes => ("yes", Some(Tone::Good)),
        v1::ChecklistAnswer::No => ("NO", Some(Tone::Bad)),
        v1::ChecklistAnswer::NotApplicable => ("does not arise", Some(Tone::Faint)),
        v1::ChecklistAnswer::Unspecified => ("-", None),
    };
    vec![Cell::new(question), Cell::new(answer).toned(tone), Cell::new(&item.detail)]
}
