//! The tape, its variables, and the walk back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::gpu::Gpu;
use crate::kernels::elementwise::binary::{self, Binary};
use crate::kernels::elementwise::dropout::Dropout;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// A list of what was computed, to be differentiated. Clones share the list.
#[derive(Clone)]
pub struct Tape(Arc<Inner>);

struct Inner {
    gpu: Gpu,
    recording: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: Vec<Record>,
    leaves: BTreeMap<NodeId, Leaf>,
    next: NodeId,
    dropout: Option<DropoutStream>,
}

type NodeId = usize;

/// Which random numbers the next dropout takes.
#[derive(Clone, Copy)]
struct DropoutStream {
    seed: u64,
    next: u64,
}

enum Leaf {
    /// The gradient is handed to the caller.
    Returned,
    /// The gradient is added into this tensor.
    AddedInto(Tensor),
}

type Rule = Box<dyn FnOnce(&Backward<'_>) -> Result<Vec<Option<Tensor>>> + Send>;

struct Record {
    op: &'static str,
    inputs: Vec<Option<NodeId>>,
    output: NodeId,
    saved: Vec<Tensor>,
    rule: Rule,
}

/// What a rule is given.
pub struct Backward<'a> {
    /// The gradient of the output, of its shape.
    pub grad: &'a Tensor,
    /// The tensors that the op saved, in its order.
    pub saved: &'a [Tensor],
    /// For each input, whether its gradient is wanted; a rule may return `None` for the others.
    pub needs: &'a [bool],
}

/// A tensor on a tape.
#[derive(Clone)]
pub struct Var {
    value: Tensor,
    node: Option<NodeId>,
    tape: Tape,
}

/// Bytes that one op's records hold for the way back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpMemory {
    /// The op.
    pub op: &'static str,
    /// How many records it made.
    pub records: usize,
    /// Bytes of saved tensors; one saved by two ops counts twice.
    pub saved_bytes: u64,
}

/// Gradients by variable.
pub struct Gradients(BTreeMap<NodeId, Tensor>);

impl Gradients {
    /// The gradient of a variable made by [`Tape::leaf`]; `None` if the result does not depend on it.
    pub fn get(&self, var: &Var) -> Option<&Tensor> {
        self.0.get(&var.node?)
    }
}

impl Tape {
    /// A tape that records, without dropout.
    pub fn new(gpu: &Gpu) -> Self {
        Self::make(gpu, true, None)
    }

    /// A tape that records, with dropout. The same seed and step give the same masks.
    pub fn training(gpu: &Gpu, seed: u64, step: u64) -> Self {
        Self::make(gpu, true, Some(DropoutStream { seed, next: step << 20 }))
    }

    /// A tape that records nothing: for evaluation.
    pub fn inference(gpu: &Gpu) -> Self {
        Self::make(gpu, false, None)
    }

    fn make(gpu: &Gpu, recording: bool, dropout: Option<DropoutStream>) -> Self {
        let state = Mutex::new(State { dropout, ..State::default() });
        Self(Arc::new(Inner { gpu: gpu.clone(), recording, state }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The GPU it computes on.
    pub fn gpu(&self) -> &Gpu {
        &self.0.gpu
    }

    /// Whether it records.
    pub fn is_recording(&self) -> bool {
        self.0.recording
    }

    /// A value that needs no gradient.
    pub fn constant(&self, value: Tensor) -> Var {
        Var { value, node: None, tape: self.clone() }
    }

    /// A value whose gradient [`Tape::backward`] returns.
    pub fn leaf(&self, value: Tensor) -> Var {
        self.add_leaf(value, Leaf::Returned)
    }

    /// A value whose gradient is added into `gradient`, a tensor of the same size: for parameters.
    pub fn leaf_into(&self, value: Tensor, gradient: Tensor) -> Var {
        self.add_leaf(value, Leaf::AddedInto(gradient))
    }

    fn add_leaf(&self, value: Tensor, leaf: Leaf) -> Var {
        let node = self.0.recording.then(|| {
            let mut state = self.state();
            let node = state.new_node();
            state.leaves.insert(node, leaf);
            node
        });
        Var { value, node, tape: self.clone() }
    }

    /// The mask for the next dropout of this share; `None` outside training and for a share of 0.
    pub fn next_dropout(&self, probability: f32) -> Option<Dropout> {
        let mut state = self.state();
        let stream = state.dropout.as_mut()?;
        // Counted even at 0, so that one layer's share does not move the others' masks.
        let number = stream.next;
        stream.next += 1;
        (probability > 0.0).then_some(Dropout { probability, seed: stream.seed, stream: number })
    }

    /// Adds an op's result to the tape: `rule` turns the gradient of `value` into those of `inputs`, in their order,
    /// from the `saved` tensors. Nothing is kept where no input needs a gradient.
    pub fn record(
        &self,
        op: &'static str,
        inputs: &[&Var],
        value: Tensor,
        saved: Vec<Tensor>,
        rule: impl FnOnce(&Backward<'_>) -> Result<Vec<Option<Tensor>>> + Send + 'static,
    ) -> Var {
        let nodes: Vec<Option<NodeId>> = inputs.iter().map(|v| v.node).collect();
        if nodes.iter().all(Option::is_none) {
            return self.constant(value);
        }
        let mut state = self.state();
        let output = state.new_node();
        state.records.push(Record { op, inputs: nodes, output, saved, rule: Box::new(rule) });
        Var { value, node: Some(output), tape: self.clone() }
    }

    /// The gradients of a scalar with respect to every leaf. Empties the tape.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `loss` has one element; what the rules return.
    pub fn backward(&self, loss: &Var) -> Result<Gradients> {
        if loss.value.len() != 1 {
            return Err(Error::Shape {
                op: "backward",
                argument: "loss",
                expected: "one element".into(),
                got: loss.shape().to_vec(),
            });
        }
        let one = Tensor::from_slice(&self.0.gpu, loss.shape(), &[1.0])?;
        self.backward_from(loss, one)
    }

    /// The gradients of ⟨`output`, `seed`⟩ with respect to every leaf. Empties the tape.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `seed` has `output`'s shape; [`Error::NoGradient`] where an op has none.
    pub fn backward_from(&self, output: &Var, seed: Tensor) -> Result<Gradients> {
        seed.expect_shape("backward", "seed", output.shape())?;
        let (records, leaves) = {
            let mut state = self.state();
            (std::mem::take(&mut state.records), std::mem::take(&mut state.leaves))
        };
        let mut grads: BTreeMap<NodeId, Tensor> = BTreeMap::new();
        if let Some(node) = output.node {
            grads.insert(node, seed);
        }
        // Each record is consumed on the way, and what it saved with it.
        for record in records.into_iter().rev() {
            let Some(grad) = grads.remove(&record.output) else { continue };
            let needs: Vec<bool> = record.inputs.iter().map(Option::is_some).collect();
            let context = Backward { grad: &grad, saved: &record.saved, needs: &needs };
            let inputs = (record.rule)(&context)?;
            for (node, gradient) in record.inputs.iter().zip(inputs) {
                let (Some(node), Some(gradient)) = (*node, gradient) else { continue };
                match leaves.get(&node) {
                    Some(Leaf::AddedInto(total)) => binary::add_assign(total, &gradient)?,
                    _ => {
                        let sum = match grads.remove(&node) {
                            None => gradient,
                            Some(earlier) => binary::forward(Binary::Add, &earlier, &gradient)?,
                        };
                        grads.insert(node, sum);
                    }
                }
            }
        }
        // The seed of an output that is itself such a leaf is still to be delivered.
        for (node, leaf) in &leaves {
            if let (Leaf::AddedInto(total), Some(gradient)) = (leaf, grads.get(node)) {
                binary::add_assign(total, gradient)?;
            }
        }
        Ok(Gradients(grads))
    }

    /// Runs `body` without keeping its intermediate results, and runs it again on the way back: less memory for more
    /// time. `body` must compute the same from the same inputs; dropout is replayed.
    ///
    /// # Errors
    /// What `body` returns.
    pub fn checkpoint(
        &self,
        inputs: &[&Var],
        body: impl Fn(&Tape, &[Var]) -> Result<Var> + Send + 'static,
    ) -> Result<Var> {
        let dropout = self.state().dropout;
        let forward = Self::make(&self.0.gpu, false, dropout);
        let constants: Vec<Var> = inputs.iter().map(|v| forward.constant(v.value.clone())).collect();
        let value = body(&forward, &constants)?.value;
        self.state().dropout = forward.state().dropout;
        if !self.0.recording {
            return Ok(self.constant(value));
        }
        let saved = inputs.iter().map(|v| v.value.clone()).collect();
        let gpu = self.0.gpu.clone();
        // Parameters inside the body need gradients even if no input does.
        let mut nodes: Vec<Option<NodeId>> = inputs.iter().map(|v| v.node).collect();
        let mut state = self.state();
        nodes.push(Some(state.new_node()));
        let output = state.new_node();
        let rule: Rule = Box::new(move |b: &Backward<'_>| {
            let again = Self::make(&gpu, true, dropout);
            let leaves: Vec<Var> = b
                .saved
                .iter()
                .zip(b.needs)
                .map(|(t, &need)| if need { again.leaf(t.clone()) } else { again.constant(t.clone()) })
                .collect();
            let result = body(&again, &leaves)?;
            let grads = again.backward_from(&result, b.grad.clone())?;
            Ok(leaves.iter().map(|v| grads.get(v).cloned()).collect())
        });
        state.records.push(Record { op: "checkpoint", inputs: nodes, output, saved, rule });
        Ok(Var { value, node: Some(output), tape: self.clone() })
    }

    /// What the tape holds for the way back, the most first.
    pub fn memory_by_op(&self) -> Vec<OpMemory> {
        let mut by_op: BTreeMap<&'static str, OpMemory> = BTreeMap::new();
        for record in &self.state().records {
            let entry = by_op.entry(record.op).or_insert(OpMemory { op: record.op, records: 0, saved_bytes: 0 });
            entry.records += 1;
            entry.saved_bytes += record.saved.iter().map(Tensor::bytes).sum::<u64>();
        }
        let mut rows: Vec<OpMemory> = by_op.into_values().collect();
        rows.sort_by(|a, b| b.saved_bytes.cmp(&a.saved_bytes).then(a.op.cmp(b.op)));
        rows
    }
}

impl State {
    fn new_node(&mut self) -> NodeId {
        self.next += 1;
        self.next
    }
}

impl Var {
    /// The tensor.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The tensor, without the tape.
    pub fn into_value(self) -> Tensor {
        self.value
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        self.value.shape()
    }

    /// Its tape.
    pub fn tape(&self) -> &Tape {
        &self.tape
    }

    /// Whether a gradient flows to it.
    pub fn needs_gradient(&self) -> bool {
        self.node.is_some()
    }

    /// The same value with no gradient flowing back.
    pub fn detach(&self) -> Var {
        self.tape.constant(self.value.clone())
    }
}

impl std::fmt::Debug for Var {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Var({:?}, node {:?})", self.value, self.node)
    }
}
