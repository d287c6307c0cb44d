//! Certificates, keys and authorities are reloaded when their files change, without failing calls.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use support_access::api::proto::v1::support_access_client::SupportAccessClient;
use tokio::task::JoinSet;

use super::{GATEWAY, World, authority::Authority, issuer::Signer};
use crate::server::harness::{a_check, eventually};

/// Background calls, half of them on new connections. Every call must succeed.
struct Load {
    calls: JoinSet<usize>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
}

impl Load {
    fn on(world: &Arc<World>) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut calls = JoinSet::new();
        for _ in 0..4 {
            let (world, stop, answered) =
                (Arc::clone(world), Arc::clone(&stop), Arc::clone(&answered));
            calls.spawn(async move {
                let mut count = 0;
                let mut client = world.checks(Some(GATEWAY)).await;
                while !stop.load(Ordering::SeqCst) {
                    client.check_access(a_check()).await.unwrap();
                    world.checks(Some(GATEWAY)).await.check_access(a_check()).await.unwrap();
                    count += 2;
                    answered.fetch_add(2, Ordering::SeqCst);
                }
                count
            });
        }
        Self { calls, stop, answered }
    }

    async fn make_progress(&self) {
        let before = self.answered.load(Ordering::SeqCst);
        eventually(async || self.answered.load(Ordering::SeqCst) > before + 40).await;
    }

    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.calls.join_all().await.into_iter().sum()
    }
}

/// The server's certificate on a new connection.
async fn current_certificate(world: &World) -> Vec<u8> {
    use tokio_rustls::rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, pem::PemObject},
    };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(world.authority.pem().as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let address = world.url().replace("https://localhost", "127.0.0.1");
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_and_key_are_reloaded_under_load() {
    let world = Arc::new(World::new().await);
    let load = Load::on(&world);
    load.make_progress().await;
    for round in 0..3 {
        let before = current_certificate(&world).await;
        let (certificate, key) = world.authority.server();
        // Between the two writes, certificate and key do not match.
        fs::write(&world.files.certificate, certificate).unwrap();
        load.make_progress().await;
        fs::write(&world.files.key, key).unwrap();
        eventually(async || current_certificate(&world).await != before).await;
        load.make_progress().await;
        println!("round {round}: the new certificate is in use");
    }
    println!("{} calls, none failed", load.stop().await);
}

#[tokio::test]
async fn invalid_files_are_ignored() {
    let world = World::new().await;
    let before = current_certificate(&world).await;
    fs::write(&world.files.key, "no key").unwrap();
    fs::write(&world.files.client_ca, "").unwrap();
    fs::remove_file(&world.files.certificate).unwrap();
    // The reload interval is a second, so the server reads the files several times.
    for _ in 0..3 {
        tokio::time::sleep(std::time::Duration::from_millis(700)).await; // not a wait for an event
        assert_eq!(current_certificate(&world).await, before);
    }
    assert!(world.checks(Some(GATEWAY)).await.check_access(a_check()).await.is_ok());
}

#[tokio::test]
async fn removing_an_authority_revokes_its_certificates() {
    let world = World::new().await;
    let old = world.authority.client(GATEWAY);
    let connects = async |identity: (String, String)| match world.connect(Some(identity)).await {
        Ok(channel) => {
            let client = SupportAccessClient::new(channel);
            client.clone().check_access(a_check()).await.is_ok()
        }
        Err(_) => false,
    };
    assert!(connects(old.clone()).await);
    let channel = world.connect(Some(old.clone())).await.unwrap();
    let mut open = SupportAccessClient::new(channel);
    let new = Authority::new("the next authority");
    fs::write(&world.files.client_ca, format!("{}{}", world.authority.pem(), new.pem())).unwrap();
    eventually(async || connects(new.client(GATEWAY)).await).await;
    assert!(connects(old.clone()).await, "both authorities are trusted");
    open.check_access(a_check()).await.unwrap();
    fs::write(&world.files.client_ca, new.pem()).unwrap();
    eventually(async || !connects(old.clone()).await).await;
    assert!(connects(new.client(GATEWAY)).await);
    let rejected = open.check_access(a_check()).await;
    assert!(rejected.is_err(), "open connections are closed");
}

#[tokio::test]
async fn key_sets_in_files_are_reloaded() {
    let world = World::new().await;
    let second = Signer::es256("second");
    let claims = super::issuer::claims("olga", "vendor-gateway", &[]);
    let is_accepted = async |signer: &Signer| {
        let request = super::bearing(a_check(), &signer.sign(&claims));
        world.checks(None).await.check_access(request).await.is_ok()
    };
    assert!(is_accepted(&world.issuer.signer).await);
    fs::write(&world.files.jwks, super::issuer::set(&[&second])).unwrap();
    eventually(async || is_accepted(&second).await).await;
    assert!(!is_accepted(&world.issuer.signer).await, "a withdrawn key is rejected");
}
