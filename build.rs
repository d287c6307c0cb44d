//! Compiles the protobuf files with `protox`, so that no `protoc` need be installed.

use std::{env, error::Error, fs, path::PathBuf};

use prost_types::FileDescriptorSet;

const PROTO_FILES: [&str; 3] = [
    "supportaccess/v1/check_nodes.proto",
    "supportaccess/v1/support_access.proto",
    "supportaccess/v1/support_access_admin.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=migrations");

    let descriptors: FileDescriptorSet = protox::compile(PROTO_FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
