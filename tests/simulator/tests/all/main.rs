//! The simulator: that it drives any machine, the same way each time, and what its networks show of the product.

mod attackers;
mod directory;
mod presence;
mod second_machine;
