//! Lines of a trace as people or programs want them. Does not know where they come from.

use serde_json::json;

use super::rows;
use crate::{
    cli::{Failure, Outcome, terminal},
    model::trace::{TraceLine, Wanted},
};

/// Writes lines to stdout as they come.
pub struct Printer {
    /// What they are called.
    noun: &'static str,
    head: &'static str,
    json: bool,
    /// The beginning of a line whose end is still to come.
    rest: Vec<u8>,
    text: String,
    headed: bool,
    shown: u64,
    in_kernel: u64,
    in_agent: u64,
}

impl Printer {
    /// Nothing was written yet.
    pub fn new(wanted: &Wanted, json: bool) -> Self {
        let (noun, head) = match wanted {
            Wanted::Queries(_) => ("queries", rows::QUERIES),
            Wanted::Calls(_) => ("calls", rows::CALLS),
            Wanted::Tcp(_) => ("events", rows::TCP),
            Wanted::Executions(_) => ("executions", rows::EXECUTIONS),
        };
        let (rest, text) = (Vec::new(), String::new());
        Self { noun, head, json, rest, text, headed: json, shown: 0, in_kernel: 0, in_agent: 0 }
    }

    /// Takes a piece of the lines, which may end anywhere. False when nobody reads any more.
    ///
    /// # Errors
    /// When stdout cannot be written, or when the lines are not those of a trace.
    pub fn take(&mut self, piece: &[u8]) -> Result<bool, Failure> {
        terminal::wanted(&self.digest(piece)?)
    }

    fn digest(&mut self, piece: &[u8]) -> Result<String, Failure> {
        let mut bytes = std::mem::take(&mut self.rest);
        bytes.extend_from_slice(piece);
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let (lines, rest) = bytes.split_at(whole);
        self.rest = rest.to_vec();
        if !std::mem::replace(&mut self.headed, true) {
            self.text.push_str(self.head);
        }
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            self.line(line)?;
        }
        Ok(std::mem::take(&mut self.text))
    }

    fn line(&mut self, line: &[u8]) -> Outcome {
        let unknown = |error| Failure::failed(format!("a line of the trace cannot be read: {error}"));
        let told = serde_json::from_slice::<TraceLine>(line).map_err(unknown)?;
        if let TraceLine::Skipped { in_kernel, in_agent } = told {
            (self.in_kernel, self.in_agent) = (in_kernel, in_agent);
            return Ok(());
        }
        self.shown += 1;
        match self.json {
            true => self.text.push_str(&String::from_utf8_lossy(line)),
            false => rows::row(&mut self.text, &told),
        }
        self.text.push('\n');
        Ok(())
    }

    /// Says what was skipped.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn end(&self) -> Outcome {
        let Self { noun, shown, in_kernel, in_agent, .. } = *self;
        if self.json {
            let total = json!({
                "kind": "total", noun: shown, "skipped_in_kernel": in_kernel, "skipped_in_agent": in_agent,
            });
            terminal::result(&format!("{total}\n"))?;
        }
        let skipped = match in_kernel + in_agent {
            0 => "none skipped".to_owned(),
            _ => format!("skipped: {in_kernel} in the kernel (of any service), {in_agent} in the agent"),
        };
        terminal::talk(&format!("{shown} {noun}, {skipped}"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::trace::rows::tests::query, model::query::Filter};

    #[test]
    fn lines_may_be_cut_anywhere_and_what_is_no_line_is_refused() {
        let lines = [TraceLine::Query(Box::new(query())), TraceLine::Skipped { in_kernel: 1, in_agent: 2 }];
        let bytes: String = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
        for cut in 0..bytes.len() {
            let (mut printer, mut text) = (Printer::new(&Wanted::Queries(Filter::default()), true), String::new());
            for piece in [&bytes.as_bytes()[..cut], &bytes.as_bytes()[cut..]] {
                text.push_str(&printer.digest(piece).unwrap());
            }
            assert_eq!(text.lines().count(), 1, "cut at {cut}");
            assert_eq!((printer.shown, printer.in_kernel, printer.in_agent), (1, 1, 2), "cut at {cut}");
        }
        assert!(Printer::new(&Wanted::Queries(Filter::default()), true).digest(b"hello\n").is_err());
    }
}
