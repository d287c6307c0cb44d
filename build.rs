//! Compiles the protobuf files with `protox`, so that `protoc` need not be installed, and records
//! the Git commit.

use std::{env, error::Error, fs, path::PathBuf, process::Command};

use prost_types::FileDescriptorSet;

const PROTO_FILES: [&str; 6] = [
    "envoy/service/auth/v3/external_auth.proto",
    "supportaccess/replication/v1/replication.proto",
    "supportaccess/v1/error_reason.proto",
    "supportaccess/v1/server_info.proto",
    "supportaccess/v1/support_access.proto",
    "supportaccess/v1/support_access_admin.proto",
];
/// For builds without a Git repository, such as an image. Up to 12 hexadecimal digits.
const COMMIT: &str = "SUPPORT_ACCESS_COMMIT";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=migrations");

    let descriptors: FileDescriptorSet = protox::compile(PROTO_FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;

    println!("cargo:rerun-if-env-changed={COMMIT}");
    let commit = commit().or_else(|| env::var(COMMIT).ok()).unwrap_or_default();
    println!("cargo:rustc-env={COMMIT}={commit}");
    Ok(())
}

/// The commit of a release build. A debug build records no commit, because every new commit would
/// require a rebuild.
fn commit() -> Option<String> {
    if env::var("PROFILE").ok()? != "release" {
        return None;
    }
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if fs::exists(&log).ok()? {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

/// The output of a Git command. `None` if the root of the repository is not the package, such as a
/// package that was unpacked inside another repository.
fn git(arguments: &[&str]) -> Option<String> {
    let package = env::var("CARGO_MANIFEST_DIR").ok()?;
    let run = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(&package).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let root = run(&["rev-parse", "--show-toplevel"])?;
    let is_own = fs::canonicalize(root).ok()? == fs::canonicalize(&package).ok()?;
    is_own.then(|| run(arguments)).flatten()
}
