//! Routes and sockets of connections that come and go.

use super::*;
use quinn::TokioRuntime;

fn router() -> Arc<Router> {
    let first = UdpSocket::bind("127.0.0.1:0").unwrap();
    let runtime = Arc::new(TokioRuntime);
    Arc::new(Router::new(&first, PathSockets::default(), runtime).unwrap())
}

fn addresses() -> (SocketAddr, SocketAddr) {
    let address = |text: &str| text.parse().unwrap();
    (address("127.0.0.3:9"), address("127.0.0.2:9"))
}

#[tokio::test]
async fn a_connection_leaves_no_route_behind_wherever_it_ends() {
    let router = router();
    let (server, believed) = addresses();
    for round in 0..20 {
        let routes = router.routes();
        let path = routes.open(server, believed).unwrap();
        routes.set(ConnectionId::new(&[round; 8]), path);
        routes.set(ConnectionId::new(&[round + 100; 8]), PathId::FIRST);
        assert_eq!(router.route_count(), 2);
        drop(routes);
        assert_eq!((router.route_count(), router.open_sockets()), (0, 1));
        assert!(router.is_empty());
    }
}

/// A server may issue a connection ID again that a connection has retired.
#[tokio::test]
async fn a_connection_id_belongs_to_the_connection_that_used_it_last() {
    let router = router();
    let (server, believed) = addresses();
    let (former, other) = (router.routes(), router.routes());
    former.open(server, believed).unwrap();
    let path = other.open(server, believed).unwrap();
    let id = ConnectionId::new(&[7; 8]);
    let datagram = [&[0x40][..], &id, &[0; 20]].concat();
    let lookup = || router.lookup(believed, &datagram);
    former.set(id, PathId::FIRST);
    other.set(id, path);
    assert_eq!((lookup(), router.route_count()), (path, 1));
    // What the former one lets go is not its own any more.
    for n in 10..30 {
        former.set(ConnectionId::new(&[n; 8]), PathId::FIRST);
    }
    assert_eq!(lookup(), path);
    drop(former);
    assert_eq!((lookup(), router.route_count()), (path, 1));
    assert!(!router.is_empty());
    drop(other);
    assert!(router.is_empty() && router.table.read().lengths.is_empty());
}

#[tokio::test]
async fn a_connection_id_that_comes_back_is_routed_again() {
    let router = router();
    let (server, believed) = addresses();
    let (one, other) = (router.routes(), router.routes());
    let path = one.open(server, believed).unwrap();
    let taken = other.open(server, believed).unwrap();
    let id = ConnectionId::new(&[7; 8]);
    let datagram = [&[0x40][..], &id, &[0; 20]].concat();
    one.set(id, PathId::FIRST);
    other.set(id, taken);
    other.close(taken);
    assert_eq!(router.lookup(believed, &datagram), PathId::FIRST);
    one.set(id, path);
    assert_eq!(router.lookup(believed, &datagram), path);
    drop(one);
    assert!(router.is_empty() && router.table.read().lengths.is_empty());
}

#[tokio::test]
async fn a_path_that_is_closed_during_a_rebind_stays_closed() {
    let router = router();
    let (server, believed) = addresses();
    let routes = router.routes();
    let (path, stays) = (
        routes.open(server, believed).unwrap(),
        routes.open(server, believed).unwrap(),
    );
    let until = Instant::now() + FORMER_LIFE;
    for path in [path, stays] {
        let socket = router.path_socket(server).unwrap();
        router.replace(path, socket, until);
    }
    assert_eq!((router.sockets.len(), router.open_sockets()), (5, 3));
    let socket = router.path_socket(server).unwrap();
    routes.close(path);
    router.replace(path, socket, until);
    assert!(!router.sockets.has(path));
    assert_eq!((router.sockets.len(), router.open_sockets()), (3, 2));
    let table = router.table.read();
    assert_eq!((table.paths.len(), table.former.len()), (1, 1));
}

#[tokio::test]
async fn paths_that_come_and_go_during_rebinds_leave_nothing_behind() {
    let router = router();
    let (server, believed) = addresses();
    let runtime = tokio::runtime::Handle::current();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _inside = runtime.enter();
            while !done.load(Ordering::Relaxed) {
                let first = UdpSocket::bind("127.0.0.1:0").unwrap();
                router.rebind(&first).unwrap();
                router.close_former(Some(PathId::FIRST), Instant::now());
            }
        });
        let _inside = runtime.enter();
        let routes = router.routes();
        let mut open = VecDeque::new();
        for _ in 0..200 {
            open.push_back(routes.open(server, believed).unwrap());
            if open.len() > 4 {
                routes.close(open.pop_front().unwrap());
            }
        }
        drop(routes);
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!((router.sockets.len(), router.open_sockets()), (1, 1));
    let table = router.table.read();
    assert!(table.paths.is_empty() && table.former.is_empty());
}
