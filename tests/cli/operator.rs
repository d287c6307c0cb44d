//! What an operator asks: who answers checks, and whether a change has reached them all.

use crate::{Said, fake::Fake, run, run_at};

#[test]
fn nodes_are_listed() {
    let server = Fake::default().start();
    let said = run_at(&server, &["nodes"]);
    let stdout = "\
NODE  KIND     VERSION  REVISION  LAG  LEASE AGE  UPSTREAM  SILENT FOR
n1    REPLICA  0.1.0    7         0    none       -         -

The log ends at revision 0. A node whose lease is - old denies every check.
";
    assert_eq!(said, Said { code: 0, stdout: stdout.into(), stderr: String::new() });
    let json = run_at(&server, &["nodes", "--output", "json"]);
    let answer: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(answer["check_nodes"][0]["kind"], "NODE_KIND_REPLICA");
    assert_eq!(answer["head_revision"], "0");
}

#[test]
fn wait_asks_again_while_there_is_time() {
    let fake = Fake::default();
    let server = fake.start();
    let said = run_at(&server, &["wait", "t7", "--tenant", "acme"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    assert!(said.stdout.starts_with("In force  at every check node, "), "{said:?}");
    let waits = || -> Vec<(String, Option<String>)> {
        let heard = fake.0.lock();
        let waits = heard.waits.iter().cloned();
        waits.map(|wait| (wait.consistency_token, wait.tenant_id)).collect()
    };
    let t7 = ("t7".to_owned(), Some("acme".to_owned()));
    assert_eq!(waits(), [t7.clone(), t7.clone()]);

    let pending = run_at(&server, &["wait", "t8", "--timeout", "300ms"]);
    let stderr = "warning: the change is permanent, but not yet known at every check node\n";
    assert_eq!((pending.code, pending.stderr.as_str()), (2, stderr));
    assert!(pending.stdout.starts_with("In force  NOT YET at every check node"), "{pending:?}");
    assert_eq!(waits(), [t7.clone(), t7, ("t8".to_owned(), None)]);

    let stderr = "error: TOKEN: there is no such event\n\
                  hint: --tenant names the tenant in whose history the change is\n";
    let unknown = run_at(&server, &["wait", "t9"]);
    assert_eq!(unknown, Said { code: 1, stdout: String::new(), stderr: stderr.into() });
    assert_eq!(run(&["wait"]).code, 64);
}
