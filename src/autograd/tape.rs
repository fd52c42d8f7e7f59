//! The tape, its variables, and the walk back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::gpu::Gpu;
use crate::kernels::elementwise::binary::{self, Binary};
use crate::kernels::elementwise::dropout::Dropout;
use crate::tensor::Tensor;
use crate::{Error, Result};

const BACKWARD: &str = "backward";

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
    /// Whether the way back was walked, which takes the records and leaves.
    spent: bool,
    dropout: Option<DropoutStream>,
}

/// A number within one tape.
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

/// An input's name, and its node if it needs a gradient.
type Input = (&'static str, Option<NodeId>);

type Rule = Box<dyn FnOnce(&Backward<'_>) -> Result<Vec<Option<Tensor>>> + Send>;

struct Record {
    op: &'static str,
    inputs: Vec<Input>,
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
    /// For each input, whether its gradient is wanted. A rule may return `None` for the others; a wanted gradient that is
    /// `None` or left out is [`Error::NoGradient`].
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
pub struct Gradients {
    tape: Tape,
    by_node: BTreeMap<NodeId, Tensor>,
}

impl Gradients {
    /// The gradient of a variable made by [`Tape::leaf`]; `None` if the result does not depend on it, as on all variables
    /// of other tapes.
    pub fn get(&self, var: &Var) -> Option<&Tensor> {
        if self.tape.owns(var) { self.by_node.get(&var.node?) } else { None }
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

    fn owns(&self, var: &Var) -> bool {
        Arc::ptr_eq(&self.0, &var.tape.0)
    }

    /// The node of an op's input. Constants have none, and may be of any tape.
    fn input(&self, op: &'static str, &(argument, var): &(&'static str, &Var)) -> Result<Input> {
        if var.node.is_some() && !self.owns(var) {
            return Err(Error::ForeignTape { op, argument });
        }
        Ok((argument, var.node))
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

    /// Adds an op's result to the tape: `rule` turns the gradient of `value` into those of the named `inputs`, in their
    /// order, from the `saved` tensors. Nothing is kept where no input needs a gradient.
    ///
    /// # Errors
    /// [`Error::ForeignTape`] for an input that needs a gradient on another tape; a constant may be of any.
    /// [`Error::TapeSpent`] after [`Tape::backward`].
    pub fn record(
        &self,
        op: &'static str,
        inputs: &[(&'static str, &Var)],
        value: Tensor,
        saved: Vec<Tensor>,
        rule: impl FnOnce(&Backward<'_>) -> Result<Vec<Option<Tensor>>> + Send + 'static,
    ) -> Result<Var> {
        if inputs.iter().all(|(_, var)| var.node.is_none()) {
            return Ok(self.constant(value));
        }
        let inputs = inputs.iter().map(|input| self.input(op, input)).collect::<Result<_>>()?;
        self.push(op, inputs, value, saved, Box::new(rule))
    }

    fn push(&self, op: &'static str, inputs: Vec<Input>, value: Tensor, saved: Vec<Tensor>, rule: Rule) -> Result<Var> {
        let mut state = self.state();
        if state.spent {
            return Err(Error::TapeSpent { op });
        }
        let output = state.new_node();
        state.records.push(Record { op, inputs, output, saved, rule });
        Ok(Var { value, node: Some(output), tape: self.clone() })
    }

    /// The gradients of a scalar with respect to every leaf. Empties the tape, which is spent then.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `loss` has one element; as [`Tape::backward_from`].
    pub fn backward(&self, loss: &Var) -> Result<Gradients> {
        loss.value.expect_one(BACKWARD, "loss")?;
        let one = Tensor::from_slice(&self.0.gpu, loss.shape(), &[1.0])?;
        self.backward_from(loss, one)
    }

    /// The gradients of ⟨`output`, `seed`⟩ with respect to every leaf. Empties the tape, which is spent then.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `seed` has `output`'s shape; [`Error::ForeignTape`] for the output of another tape;
    /// [`Error::Argument`] on a tape for inference; [`Error::TapeSpent`] the second time; [`Error::NoGradient`] where an
    /// op has none for an input that needs it; what the rules return.
    pub fn backward_from(&self, output: &Var, seed: Tensor) -> Result<Gradients> {
        seed.expect_shape(BACKWARD, "seed", output.shape())?;
        if !self.owns(output) {
            return Err(Error::ForeignTape { op: BACKWARD, argument: "output" });
        }
        if !self.0.recording {
            let why = "is for inference and records nothing; use Tape::new or Tape::training".into();
            return Err(Error::Argument { op: BACKWARD, argument: "tape", why });
        }
        let (records, leaves) = {
            let mut state = self.state();
            if std::mem::replace(&mut state.spent, true) {
                return Err(Error::TapeSpent { op: BACKWARD });
            }
            (std::mem::take(&mut state.records), std::mem::take(&mut state.leaves))
        };
        let mut grads: BTreeMap<NodeId, Tensor> = BTreeMap::new();
        if let Some(node) = output.node {
            grads.insert(node, seed);
        }
        // Each record is consumed on the way, and what it saved with it.
        for record in records.into_iter().rev() {
            let Some(grad) = grads.remove(&record.output) else { continue };
            for (node, gradient) in record.walk(&grad)? {
                if let Some(Leaf::AddedInto(total)) = leaves.get(&node) {
                    binary::add_assign(total, &gradient)?;
                    continue;
                }
                let sum = match grads.remove(&node) {
                    None => gradient,
                    Some(earlier) => binary::forward(Binary::Add, &earlier, &gradient)?,
                };
                grads.insert(node, sum);
            }
        }
        // The seed of an output that is itself such a leaf is still to be delivered.
        for (node, leaf) in &leaves {
            if let (Leaf::AddedInto(total), Some(gradient)) = (leaf, grads.get(node)) {
                binary::add_assign(total, gradient)?;
            }
        }
        Ok(Gradients { tape: self.clone(), by_node: grads })
    }

    /// Runs `body` without keeping its intermediate results, and runs it again on the way back: less memory for more
    /// time. `body` must compute the same from the same inputs; dropout is replayed. It works on the tape that it is
    /// given, and reaches what needs a gradient through its inputs, or takes it onto that tape, as parameters are.
    ///
    /// # Errors
    /// What `body` returns; [`Error::ForeignTape`] where it uses variables of another tape.
    pub fn checkpoint(
        &self,
        inputs: &[&Var],
        body: impl Fn(&Tape, &[Var]) -> Result<Var> + Send + 'static,
    ) -> Result<Var> {
        const OP: &str = "checkpoint";
        let nodes = inputs.iter().map(|&v| self.input(OP, &("inputs", v))).collect::<Result<_>>()?;
        let dropout = self.state().dropout;
        let forward = Self::make(&self.0.gpu, false, dropout);
        let constants: Vec<Var> = inputs.iter().map(|v| forward.constant(v.value.clone())).collect();
        let result = body(&forward, &constants)?;
        if !forward.owns(&result) {
            return Err(Error::ForeignTape { op: OP, argument: "result" });
        }
        self.state().dropout = forward.state().dropout;
        if !self.0.recording {
            return Ok(self.constant(result.value));
        }
        let saved = inputs.iter().map(|v| v.value.clone()).collect();
        let gpu = self.0.gpu.clone();
        // Recorded whatever the inputs need: parameters inside the body need gradients, too.
        let rule = move |b: &Backward<'_>| {
            let again = Self::make(&gpu, true, dropout);
            let var = |(t, &need): (&Tensor, &bool)| {
                if need { again.leaf(t.clone()) } else { again.constant(t.clone()) }
            };
            let leaves: Vec<Var> = b.saved.iter().zip(b.needs).map(var).collect();
            let result = body(&again, &leaves)?;
            let grads = again.backward_from(&result, b.grad.clone())?;
            let gradient = |v: &Var| match grads.get(v) {
                Some(gradient) => Ok(gradient.clone()),
                // The result does not depend on it.
                None => Tensor::zeros(&gpu, OP, v.shape()),
            };
            leaves.iter().map(|v| v.needs_gradient().then(|| gradient(v)).transpose()).collect()
        };
        self.push(OP, nodes, result.value, saved, Box::new(rule))
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

impl Record {
    /// The gradients of the inputs that need one, from that of the output.
    fn walk(self, grad: &Tensor) -> Result<Vec<(NodeId, Tensor)>> {
        let needs: Vec<bool> = self.inputs.iter().map(|(_, node)| node.is_some()).collect();
        let mut gradients = (self.rule)(&Backward { grad, saved: &self.saved, needs: &needs })?.into_iter();
        let mut found = Vec::with_capacity(needs.len());
        for (argument, node) in self.inputs {
            match (node, gradients.next().flatten()) {
                (Some(node), Some(gradient)) => found.push((node, gradient)),
                (Some(_), None) => return Err(Error::NoGradient { op: self.op, argument }),
                (None, _) => {}
            }
        }
        Ok(found)
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

impl AsRef<Var> for Var {
    fn as_ref(&self) -> &Var {
        self
    }
}

impl std::fmt::Debug for Var {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Var({:?}, node {:?})", self.value, self.node)
    }
}
