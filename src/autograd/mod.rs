//! Reverse-mode differentiation: a flat tape, defined by run.
//!
//! A [`Tape`] lists what was computed: the op's name, its inputs, exactly the tensors that its gradient needs, and a rule
//! that turns the gradient of the output into gradients of the inputs. [`Tape::backward`] walks the list in reverse,
//! frees saved tensors as it goes, adds up where a value was used twice, and skips what needs no gradient. A tape made
//! by [`Tape::inference`] records nothing and costs nothing.
//!
//! Adding a differentiable op: a kernel (see [`crate::kernels`]) and one rule, a method of [`Var`] in `autograd/ops`.

mod check;
mod ops;
mod tape;

pub use check::{GradientCheck, GradientReport, InputReport, check_gradient};
pub use ops::{AttentionOptions, concat};
pub use tape::{Backward, Gradients, OpMemory, Tape, Var};
