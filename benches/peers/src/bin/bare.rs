//! A tonic service without our layers that answers every check with yes: the comparison for all
//! rows about CPU.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark fails by panicking, and prints what it finds"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Parser, ValueEnum};
use futures::stream::unfold;
use support_access::api::proto::v1::{
    self as pb,
    support_access_server::{SupportAccess, SupportAccessServer},
};
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Builder,
};
use tonic::{
    Request, Response, Status, async_trait,
    transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

/// A server that always answers yes.
#[derive(Debug, Parser)]
struct Args {
    /// `unix:PATH`, or an address.
    #[arg(long)]
    listen: String,
    /// The server's certificate, for mutual TLS.
    #[arg(long, requires_all = ["tls_key", "client_ca"])]
    tls_certificate: Option<PathBuf>,
    /// The key of the certificate.
    #[arg(long)]
    tls_key: Option<PathBuf>,
    /// The authority of client certificates.
    #[arg(long)]
    client_ca: Option<PathBuf>,
    /// The runtime.
    #[arg(long, default_value = "current-thread")]
    runtime: Runtime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Runtime {
    CurrentThread,
    MultiThread,
}

#[derive(Debug, Clone, Copy)]
struct Bare;

#[async_trait]
impl SupportAccess for Bare {
    async fn check_access(
        &self,
        _: Request<pb::CheckAccessRequest>,
    ) -> Result<Response<pb::CheckAccessResponse>, Status> {
        Ok(Response::new(yes()))
    }

    async fn batch_check_access(
        &self,
        request: Request<pb::BatchCheckAccessRequest>,
    ) -> Result<Response<pb::BatchCheckAccessResponse>, Status> {
        let results = request.into_inner().checks.iter().map(|_| yes()).collect();
        Ok(Response::new(pb::BatchCheckAccessResponse { results }))
    }

    async fn explain_access(
        &self,
        _: Request<pb::ExplainAccessRequest>,
    ) -> Result<Response<pb::ExplainAccessResponse>, Status> {
        Err(Status::unimplemented("a bare server explains nothing"))
    }
}

/// An answer with the fields and lengths of a real one.
fn yes() -> pb::CheckAccessResponse {
    pb::CheckAccessResponse {
        decision: pb::Decision::Allowed.into(),
        reason: pb::DecisionReason::GrantActive.into(),
        grant_id: "01993d5f-5d4b-7c1e-9d0a-3f2b1c4d5e6f".to_owned(),
        access_level: pb::AccessLevel::ReadWrite.into(),
        expire_time: None,
        valid_for: Some(prost_types::Duration { seconds: 1, nanos: 900_000_000 }),
        message: "Access is granted to group group-1 until revoked.".to_owned(),
        remedy: pb::Remedy::None.into(),
        lock_id: String::new(),
        ignored_group_count: 0,
    }
}

fn main() {
    let args = Args::parse();
    let mut builder = match args.runtime {
        Runtime::CurrentThread => Builder::new_current_thread(),
        Runtime::MultiThread => Builder::new_multi_thread(),
    };
    let runtime = builder.enable_all().build().expect("the runtime starts");
    runtime.block_on(serve(&args));
}

/// Mutual TLS, if there are certificates.
fn tls(args: &Args) -> Option<ServerTlsConfig> {
    let read = |path: &Path| fs::read(path).expect("the file is readable");
    let certificate = read(args.tls_certificate.as_deref()?);
    let identity = Identity::from_pem(certificate, read(args.tls_key.as_deref()?));
    let authority = Certificate::from_pem(read(args.client_ca.as_deref()?));
    Some(ServerTlsConfig::new().identity(identity).client_ca_root(authority))
}

async fn serve(args: &Args) {
    let listen = &args.listen;
    let mut builder = Server::builder();
    if let Some(tls) = tls(args) {
        builder = builder.tls_config(tls).expect("the certificates are valid");
    }
    let server = builder.add_service(SupportAccessServer::new(Bare));
    let ended = if let Some(path) = listen.strip_prefix("unix:") {
        let listener = UnixListener::bind(path).expect("the path is free");
        println!("listening on {listen}");
        let incoming = unfold(listener, async |listener| {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        server.serve_with_incoming(incoming).await
    } else {
        let listener = TcpListener::bind(listen).await.expect("the address is free");
        println!("listening on {}", listener.local_addr().expect("it is bound"));
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        server.serve_with_incoming(incoming).await
    };
    ended.expect("the server serves");
}
