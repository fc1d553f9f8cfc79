//! The suite of moves between nodes that prefer different dialects: the dialect changes from hop to hop.

mod moves;
