//! The server inside another program: taking addresses, ending, giving them back.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use halloo_relay::config::Config;
use halloo_relay::metrics::Response;
use halloo_relay::server::{BindError, Server};
use halloo_relay::stun::{Class, MessageBuilder, Method, TransactionId};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::harness::DEADLINE;

fn listening(addresses: &[&str]) -> Config {
    let mut config = Config::default();
    config.listen = addresses.iter().map(|address| address.parse().expect("a literal address")).collect();
    config
}

fn first_address(server: &Server) -> SocketAddr {
    server.local_addresses().next().expect("one address is served")
}

#[tokio::test]
async fn one_port_serves_both_families() {
    // Somebody else may have the port for the other family, so a few are tried.
    let is_shared = (0..20).any(|_| {
        let ipv4 = Server::bind(listening(&["0.0.0.0:0"])).expect("a free port");
        let port = first_address(&ipv4).port();
        Server::bind(listening(&[&format!("[::]:{port}")])).is_ok()
    });
    assert!(is_shared);
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_named_and_the_others_given_back() {
    let (free, taken) = (UdpSocket::bind("127.0.0.1:0").expect("bound"), UdpSocket::bind("127.0.0.1:0").expect("bound"));
    let (free_address, taken_address) = (free.local_addr().expect("bound"), taken.local_addr().expect("bound"));
    drop(free);
    let refused = Server::bind(listening(&[&free_address.to_string(), &taken_address.to_string()]));
    let Err(BindError::Address { address, .. }) = refused else { panic!("two servers on one address") };
    assert_eq!(address, taken_address);
    assert!(UdpSocket::bind(free_address).is_ok());
}

#[tokio::test]
async fn it_serves_until_told_to_stop_and_gives_its_addresses_back() {
    let server = Server::bind(listening(&["127.0.0.1:0", "127.0.0.1:0"])).expect("free ports");
    let (address, metrics) = (first_address(&server), server.metrics());
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async move { stopped.await.expect("told to stop") }));

    let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let mut buffer = [0; 64];
    let request = MessageBuilder::begin(&mut buffer, Class::Request, Method::BINDING, TransactionId([1; 12]));
    let bytes = request.expect("64 bytes hold a header").finish();
    client.send_to(&buffer[..bytes], address).await.expect("sent");
    timeout(DEADLINE, client.recv(&mut buffer)).await.expect("a response in time").expect("received");

    stop.send(()).expect("it runs");
    timeout(DEADLINE, running).await.expect("an end in time").expect("no panic").expect("an orderly end");
    assert!(UdpSocket::bind(address).is_ok());
    let totals = metrics.snapshot();
    let bindings = totals.responses(Response::Binding);
    assert_eq!((totals.received, totals.received_bytes, bindings, totals.response_bytes), (1, 20, 1, 32));
}

#[tokio::test]
async fn dropping_it_while_it_runs_gives_its_addresses_back() {
    let server = Server::bind(listening(&["127.0.0.1:0"])).expect("a free port");
    let address = first_address(&server);
    let forever = server.run(std::future::pending());
    assert!(timeout(Duration::ZERO, forever).await.is_err(), "nothing ended it");
    // Its tasks end when the runtime next runs them.
    let given_back = async {
        while UdpSocket::bind(address).is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, given_back).await.expect("the address is free again");
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused() {
    let mut config = listening(&["127.0.0.1:0"]);
    config.realm = "x".repeat(200);
    assert!(matches!(Server::bind(config), Err(BindError::Config(_))));
}
