//! Several statements in one message to a remote database.

use std::fmt::Write as _;

use crate::store::sql::statements::{Statement, Value};

/// One statement that executes all of these, which write different tables. Every part sees the
/// tables as they were before the statement. Foreign keys are checked at the end of it. `None`:
/// there are no statements.
pub(in crate::store) fn joined(mut statements: Vec<Statement>) -> Option<Statement> {
    let last = statements.pop()?;
    let (mut sql, mut values) = (String::new(), Vec::new());
    for (number, statement) in statements.into_iter().enumerate() {
        let opening = if number == 0 { "WITH" } else { "," };
        let part = shifted(&statement.sql, values.len());
        let _ = write!(sql, "{opening} w{number} AS ({part}) ");
        values.extend(statement.values);
    }
    sql.push_str(&shifted(&last.sql, values.len()));
    values.extend(last.values);
    Some(Statement::with(sql, values))
}

/// The statements as one text without parameters. The server executes them one after another, each
/// with a snapshot of its own.
pub(in crate::store) fn script(statements: &[Statement]) -> String {
    let text = |statement: &Statement| {
        let value =
            |number: usize| statement.values.get(number - 1).map(literal).unwrap_or_default();
        substituted(&statement.sql, value)
    };
    statements.iter().map(text).collect::<Vec<_>>().join("; ")
}

/// The statement with `offset` parameters before its own.
fn shifted(sql: &str, offset: usize) -> String {
    substituted(sql, |number| format!("${}", number + offset))
}

/// Replaces the parameters `$1`, `$2` and so on. No statement contains another `$`.
fn substituted(sql: &str, replacement: impl Fn(usize) -> String) -> String {
    let mut parts = sql.split('$');
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let (number, rest) = part.split_at(end);
        result.push_str(&number.parse().map_or_else(|_| "$".into(), &replacement));
        result.push_str(rest);
    }
    result
}

/// A value as an expression of PostgreSQL. Texts are in hexadecimal, so that no character of a
/// caller can end the expression, whatever the settings of the session.
fn literal(value: &Value) -> String {
    match value {
        Value::Int(number) | Value::MaybeInt(Some(number)) => format!("({number})::bigint"),
        Value::Text(text) | Value::MaybeText(Some(text)) => {
            format!("convert_from({}, 'UTF8')", bytes(text.as_bytes()))
        }
        Value::Bytes(value) => bytes(value),
        Value::MaybeInt(None) | Value::MaybeText(None) => "NULL".into(),
    }
}

fn bytes(value: &[u8]) -> String {
    let mut hex = String::with_capacity(2 * value.len());
    for byte in value {
        let _ = write!(hex, "{byte:02x}");
    }
    format!("decode('{hex}', 'hex')")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_joined_statements_keep_their_values() {
        let insert =
            Statement::with("INSERT INTO a VALUES ($1, $2)", vec![Value::Int(1), Value::Int(2)]);
        let delete = Statement::with("DELETE FROM b WHERE c = $1", vec![Value::Int(3)]);
        let update =
            Statement::with("UPDATE d SET e = $2 WHERE f = $1", vec![Value::Int(4), Value::Int(5)]);
        let joined = joined(vec![insert, delete, update]).unwrap();
        assert_eq!(
            joined.sql,
            "WITH w0 AS (INSERT INTO a VALUES ($1, $2)) , w1 AS (DELETE FROM b WHERE c = $3) \
             UPDATE d SET e = $5 WHERE f = $4"
        );
        assert_eq!(joined.values, (1..=5).map(Value::Int).collect::<Vec<_>>());
    }

    #[test]
    fn a_script_contains_no_text_of_a_caller() {
        let values = vec!["'; DROP TABLE head; --\\".into(), Value::Int(-1), Value::MaybeInt(None)];
        let select = Statement::with("SELECT $1, $2, $3", values);
        assert_eq!(
            script(&[select, Statement::new("SELECT 1")]),
            "SELECT convert_from(decode('273b2044524f50205441424c4520686561643b202d2d5c', 'hex'), \
             'UTF8'), (-1)::bigint, NULL; SELECT 1"
        );
    }
}
