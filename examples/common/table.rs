//! The table that the retrieval examples print.

use reelgrad::retrieval::compat::CompatMetrics;
use reelgrad::retrieval::two_space::Evaluation;

const HEAD: &str = "                 text to video                      video to text\n\
                    model            R@1   R@5  R@10  R@50  MdR  MnR   R@1   R@5  R@10  R@50  MdR  MnR";

/// The two lines above the table; with or without a column for the accuracy on pairs in the other order.
pub fn head(order: bool) -> String {
    if order { format!("{HEAD}   order %") } else { HEAD.into() }
}

/// One line: percentages and ranks of both directions, and the accuracy on pairs in the other order, if known.
pub fn line(name: &str, e: &Evaluation, order: Option<f64>) -> String {
    let half = |m: &reelgrad::retrieval::RetrievalMetrics| {
        format!("{:5.1} {:5.1} {:5.1} {:5.1} {:4.0} {:4.0}", m.r1, m.r5, m.r10, m.r50, m.mdr, m.mnr)
    };
    let order = order.map_or_else(String::new, |o| format!("   {o:5.1}"));
    format!("{name:<14} {} {}{order}", half(&e.text_to_video), half(&e.video_to_text))
}

/// What guessing gives in a gallery of `n`.
pub fn chance(n: usize, order: bool) -> String {
    let n = n as f64;
    let r = |k: f64| 100.0 * (k / n).min(1.0);
    let middle = (n + 1.0) / 2.0;
    let half = format!("{:5.1} {:5.1} {:5.1} {:5.1} {middle:4.0} {middle:4.0}", r(1.0), r(5.0), r(10.0), r(50.0));
    format!("{:<14} {half} {half}{}", "chance", if order { "    50.0" } else { "" })
}

/// One line: names and values as a published script prints them.
pub fn script(metrics: &CompatMetrics) -> String {
    let values: Vec<String> = metrics.values.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
    values.join("  ")
}
