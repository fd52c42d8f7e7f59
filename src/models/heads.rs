//! Score heads: what every model that compares texts with videos gives, so that losses, rerankers and evaluation serve
//! them all.

use crate::autograd::{Var, concat};
use crate::{Error, Result};

/// A named matrix of scores.
#[derive(Clone, Debug)]
pub struct Head {
    /// What is compared with what, such as `sentence_frame`.
    pub name: &'static str,
    /// (texts, videos).
    pub scores: Var,
}

impl Head {
    /// A head.
    pub fn new(name: &'static str, scores: Var) -> Self {
        Self { name, scores }
    }
}

/// The sum of the heads' scores, each times its weight; heads without a weight, and weights of 0, do not count.
///
/// # Errors
/// [`Error::Argument`] for a weight without a head, or no weights but 0.
pub fn weighted_sum(heads: &[Head], weights: &[(&str, f32)]) -> Result<Var> {
    let bad = |why: String| Error::Argument { op: "weighted_sum", argument: "weights", why };
    let term = |&(name, weight): &(&str, f32)| {
        let head = heads.iter().find(|h| h.name == name).ok_or_else(|| bad(format!("name no head {name:?}")))?;
        head.scores.scale(weight)
    };
    let terms = weights.iter().filter(|(_, weight)| *weight != 0.0).map(term);
    terms.reduce(|sum, term| sum?.add(&term?)).unwrap_or_else(|| Err(bad("are all 0".into())))
}

/// The heads' scores as one tensor (heads, texts, videos), for losses over all of them.
///
/// # Errors
/// [`Error::Argument`] for no heads; [`Error::ShapeMismatch`].
pub fn stack(heads: &[Head]) -> Result<Var> {
    let one = |h: &Head| h.scores.reshape([&[1], h.scores.shape()].concat());
    let parts: Vec<Var> = heads.iter().map(one).collect::<Result<_>>()?;
    concat(&parts, 0)
}
