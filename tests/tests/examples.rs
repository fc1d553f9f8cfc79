//! The example of two nodes and a client runs to its end, which it reaches at the second node.

#[path = "../../rustls-migration/examples/two_nodes.rs"]
mod two_nodes;

#[test]
fn two_nodes_move_a_stream() {
    two_nodes::main().unwrap();
}
