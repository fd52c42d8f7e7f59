//! Products of matrices that are larger than a binding, part by part.

use std::ops::Range;

use super::{Epilogue, OP, Options, Output, Problem, forward, reduce};
use crate::kernels::elementwise::permute;
use crate::tensor::{Tensor, whole_steps};
use crate::{Error, Result};

/// Bytes that a binding may hold.
fn limit(t: &Tensor) -> u64 {
    t.gpu().report().limits.max_storage_buffer_binding_size
}

/// Whether a or b, or the result of `p`, is larger than a binding. Batches of products are left to the launch.
pub(super) fn is(a: &Tensor, b: &Tensor, p: &Problem) -> bool {
    p.z == 1 && limit(a) < a.bytes().max(b.bytes()).max(bytes(p.m, p.n))
}

fn bytes(rows: usize, width: usize) -> u64 {
    4 * rows as u64 * width as u64
}

/// [`forward`] in parts: of rows of the result; else of its columns, which are rows of b; else of terms of its sums, added
/// in order. A part that is still too large is cut again.
pub(super) fn run(a: &Tensor, b: &Tensor, options: &Options, p: &Problem, shape: &[usize]) -> Result<Output> {
    let a = a.reshape(if p.layout.transpose_a { [p.k, p.m] } else { [p.m, p.k] })?;
    let residual = options.residual.map(|r| r.reshape([p.m, p.n])).transpose()?;
    let options = Options { residual: residual.as_ref(), ..*options };
    let output = match a.bytes() > limit(&a) {
        // Of rows and columns of it, rows are cheap to take.
        true if p.layout.transpose_a => by_terms(&a, b, &options, p),
        false if bytes(p.m, p.n) <= limit(&a) && p.layout.transpose_b => by_columns(&a, b, &options, p),
        false if bytes(p.m, p.n) <= limit(&a) => by_terms(&a, b, &options, p),
        _ => by_rows(&a, b, &options, p),
    }?;
    let pre_activation = output.pre_activation.map(|t| t.reshape(shape)).transpose()?;
    Ok(Output { y: output.y.reshape(shape)?, pre_activation })
}

/// Runs of `count` rows of matrices whose rows have so many bytes: as many as a binding holds of the largest, each
/// starting where views may in all of them.
///
/// # Errors
/// [`Error::LimitExceeded`] if that is all of them.
fn cut(t: &Tensor, count: usize, rows: &[u64]) -> Result<Vec<Range<usize>>> {
    let largest = rows.iter().copied().max().unwrap_or(0).max(1);
    // A power of two divides all of the sizes if it divides their bitwise or.
    let most = whole_steps((limit(t) / largest) as usize, rows.iter().fold(0, |all, bytes| all | bytes));
    if most < count {
        return Ok((0..count).step_by(most).map(|start| start..(start + most).min(count)).collect());
    }
    Err(Error::LimitExceeded {
        op: OP,
        what: "bytes of the rows that must be bound together",
        needed: most as u64 * largest,
        limit: limit(t),
        remedy: "use a narrower layer",
    })
}

fn columns(t: &Tensor, range: &Range<usize>) -> Result<Tensor> {
    permute::slice(t, 1, range.clone())
}

fn by_rows(a: &Tensor, b: &Tensor, options: &Options, p: &Problem) -> Result<Output> {
    let whole = || Tensor::uninit(a.gpu(), OP, [p.m, p.n]);
    let (y, pre_activation) = (whole()?, options.keep_pre_activation.then(whole).transpose()?);
    let rows = [bytes(1, p.n), if p.layout.transpose_a { 0 } else { bytes(1, p.k) }];
    for range in cut(a, p.m, &rows)? {
        let of_a = if p.layout.transpose_a { columns(a, &range) } else { a.rows_view(range.clone()) }?;
        let residual = options.residual.map(|r| r.rows_view(range.clone())).transpose()?;
        let part = forward(&of_a, b, &Options { residual: residual.as_ref(), ..*options })?;
        y.rows_view(range.clone())?.copy_from(&part.y)?;
        if let (Some(whole), Some(part)) = (&pre_activation, &part.pre_activation) {
            whole.rows_view(range)?.copy_from(part)?;
        }
    }
    Ok(Output { y, pre_activation })
}

fn by_columns(a: &Tensor, b: &Tensor, options: &Options, p: &Problem) -> Result<Output> {
    let (mut ys, mut kept) = (Vec::new(), Vec::new());
    // The bias has rows of one element.
    for range in cut(a, p.n, &[b.bytes() / p.n as u64, bytes(1, 1)])? {
        let bias = options.bias.map(|bias| bias.rows_view(range.clone())).transpose()?;
        let residual = options.residual.map(|r| columns(r, &range)).transpose()?;
        let options = Options { bias: bias.as_ref(), residual: residual.as_ref(), ..*options };
        let part = forward(a, &b.rows_view(range)?, &options)?;
        ys.push(part.y);
        kept.extend(part.pre_activation);
    }
    let joined = |parts: &[Tensor]| permute::concat(&parts.iter().collect::<Vec<_>>(), 1);
    let pre_activation = options.keep_pre_activation.then(|| joined(&kept)).transpose()?;
    Ok(Output { y: joined(&ys)?, pre_activation })
}

fn by_terms(a: &Tensor, b: &Tensor, options: &Options, p: &Problem) -> Result<Output> {
    let mut sum: Option<Tensor> = None;
    let rows = [bytes(1, p.n), if p.layout.transpose_a { bytes(1, p.m) } else { 0 }];
    for range in cut(a, p.k, &rows)? {
        let terms = if p.layout.transpose_a { a.rows_view(range.clone()) } else { columns(a, &range) }?;
        let plain = Options {
            transpose_a: p.layout.transpose_a,
            alpha: options.alpha,
            residual: sum.as_ref(),
            ..Options::default()
        };
        sum = Some(forward(&terms, &b.rows_view(range)?, &plain)?.y);
    }
    let whole = || Tensor::uninit(a.gpu(), OP, [p.m, p.n]);
    let (y, kept, sum) = (whole()?, options.keep_pre_activation.then(whole).transpose()?, sum.map_or_else(whole, Ok)?);
    for range in y.parts() {
        let rows = |t: &Tensor| t.rows_view(range.clone());
        let (residual, kept) = (options.residual.map(rows).transpose()?, kept.as_ref().map(rows).transpose()?);
        let options = Options { alpha: 1.0, residual: residual.as_ref(), ..*options };
        let code = Some(options.activation.map_or(0, |activation| activation as u32));
        reduce(Some(&rows(&sum)?), 1, &rows(&y)?, &Epilogue { options: &options, kept: kept.as_ref(), code })?;
    }
    Ok(Output { y, pre_activation: kept })
}
