//! Floods of connections, and those whose other side is gone without a word.

use std::{net::SocketAddr, time::Duration};

use futures::future::join_all;
use support_access::{
    api::proto::v1::support_access_client::SupportAccessClient, domain::Span,
    server::config::CallLimits,
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
};

use super::{
    Bystander, assert_well, connect, frames::Attacker, has_places, limited, places_return, tcp,
};
use crate::{
    harness::{a_check, eventually, get},
    proxy::{Proxy, Target},
};

const SOON: Duration = Duration::from_secs(5);

async fn from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    socket.connect(to).await.unwrap()
}

/// Whether the server hangs up on it at once.
async fn is_turned_away(stream: &mut TcpStream) -> bool {
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0; 64])).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_has_so_many_connections_and_takes_none_from_others() {
    const PER_ADDRESS: usize = 50;
    let limits = CallLimits { connections_per_address: PER_ADDRESS, ..CallLimits::default() };
    let running = limited(limits).await;
    let address = tcp(&running);
    let gateway = Bystander::at(&running).await;
    let (mut attackers, mut kept) = (Vec::new(), 0);
    // Not all at once: what the system has not handed over yet is nobody's.
    for _ in 0..10 {
        let mut more = join_all((0..100).map(|_| from([127, 0, 0, 2], address))).await;
        let turned_away = join_all(more.iter_mut().map(is_turned_away)).await;
        kept += turned_away.iter().filter(|turned_away| !**turned_away).count();
        attackers.append(&mut more);
    }
    assert_eq!(kept, PER_ADDRESS);
    assert!(has_places(address, PER_ADDRESS - 1).await, "others are served, all but the gateway's");
    drop(attackers);
    eventually(async || {
        let mut again: Vec<_> =
            join_all((0..PER_ADDRESS).map(|_| from([127, 0, 0, 2], address))).await;
        !join_all(again.iter_mut().map(is_turned_away)).await.contains(&true)
    })
    .await;
    println!("1000 connections, {kept} kept; {} checks were answered", gateway.end().await);
    places_return(address, PER_ADDRESS).await;
    assert_well(&running, connect(address).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_http_port_is_not_one_address_s_alone() {
    let running = limited(CallLimits::default()).await;
    let gateway = Bystander::at(&running).await;
    let mut attackers: Vec<_> =
        join_all((0..300).map(|_| from([127, 0, 0, 2], running.metrics))).await;
    let kept = join_all(attackers.iter_mut().map(is_turned_away)).await;
    assert_eq!(kept.iter().filter(|turned_away| !**turned_away).count(), 64);
    assert_eq!(get(running.metrics, "/readyz").await.0, 200);
    gateway.end().await;
    assert_well(&running, connect(tcp(&running)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_come_and_go_leave_nothing_behind() {
    let limits = CallLimits { connections_per_address: 20, ..CallLimits::default() };
    let running = limited(limits).await;
    let address = tcp(&running);
    let gateway = Bystander::at(&running).await;
    for round in 0..100 {
        join_all((0..30).map(async |number| {
            // Some say hello, some do not, some are reset.
            let Ok(mut attacker) = Attacker::silent(address).await else { return };
            if (number + round) % 3 == 0 {
                let _ = attacker.begin(&[]).await;
            }
        }))
        .await;
    }
    places_return(address, 19).await;
    println!("3000 connections; {} checks were answered", gateway.end().await);
    assert_well(&running, connect(address).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_gone_without_a_word_gives_its_place_back() {
    const PER_ADDRESS: usize = 10;
    let second = Span(Duration::from_secs(1));
    let running = limited(CallLimits {
        connections_per_address: PER_ADDRESS,
        keepalive_interval: second,
        keepalive_timeout: second,
        ..CallLimits::default()
    })
    .await;
    let address = tcp(&running);
    let gateway = Bystander::at(&running).await;
    let proxy = Proxy::start(Target::Tcp(address)).await;
    let mut clients = Vec::new();
    for _ in 1..PER_ADDRESS {
        let mut client = SupportAccessClient::new(connect(proxy.address).await);
        client.check_access(a_check()).await.unwrap();
        clients.push(client);
    }
    assert!(!has_places(address, 1).await, "all places are taken");
    proxy.stop();
    let began = std::time::Instant::now();
    places_return(address, PER_ADDRESS - 1).await;
    assert!(began.elapsed() < 2 * second.0 + SOON, "{:?}", began.elapsed());
    println!("half-open for {:?}; {} checks were answered", began.elapsed(), gateway.end().await);
    drop(clients);
    assert_well(&running, connect(address).await).await;
}
