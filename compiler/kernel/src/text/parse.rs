//! Text to kernel.

use std::collections::HashMap;

use crate::split::Split;
use crate::{
    Access, Affine, Arithmetic, Bound, Buffer, BufferDeclaration, Bytes, Expression, Factors, Function, Joining,
    Kernel, LoopDeclaration, LoopVar, Role, Statement, Variable,
};
use partita_config::tuned::Choice;
use partita_ir::graph::ElementType;
use partita_ir::text::{ParseError, Reader, TextPlace};
use partita_rt::kernels::Winograd;

/// Loops and operations inside each other, at most.
const MOST_NESTED: usize = 100;

/// Reads a kernel; the inverse of its `Display`. Whether it stays inside its buffers, [`crate::verify`] says.
pub fn parse(text: &str) -> Result<Kernel, ParseError> {
    let mut reader = Reader::new(text);
    reader.next_line();
    let kernel = read(&mut reader)?;
    match reader.next_line() {
        true => Err(reader.expected("the end of the kernel")),
        false => Ok(kernel),
    }
}

/// Reads a kernel that begins here, up to the brace that ends it.
pub fn read(reader: &mut Reader<'_>) -> Result<Kernel, ParseError> {
    reader.expect_word("kernel")?;
    let mut kernel = Kernel {
        name: reader.word("the kernel's name")?.to_string(),
        summary: String::new(),
        lanes: 0,
        buffers: Vec::new(),
        loops: Vec::new(),
        variable_names: Vec::new(),
        body: Vec::new(),
        in_place: Vec::new(),
        split: None,
        alternative: None,
        winograd: None,
        macs: 0,
    };
    reader.expect_word("lanes")?;
    kernel.lanes = reader.count_within(1..=64)? as u32;
    reader.expect_word("macs")?;
    kernel.macs = reader.count()?;
    kernel.summary = reader.string()?;
    reader.end_of_line()?;
    let mut parser = Parser { kernel, buffers: HashMap::new(), loops: HashMap::new(), variables: HashMap::new() };
    loop {
        reader.next_line();
        if reader.take("{") {
            break;
        }
        parser.declaration(reader)?;
        reader.end_of_line()?;
    }
    reader.end_of_line()?;
    parser.kernel.body = parser.block(reader, 1)?;
    Ok(parser.kernel)
}

struct Parser<'a> {
    kernel: Kernel,
    /// What has been declared, by name.
    buffers: HashMap<&'a str, u32>,
    loops: HashMap<&'a str, u32>,
    variables: HashMap<&'a str, u32>,
}

/// Adds a name, which must be new.
fn declare<'a>(names: &mut HashMap<&'a str, u32>, reader: &mut Reader<'a>, what: &str) -> Result<&'a str, ParseError> {
    let place = reader.place();
    let name = reader.word(what)?;
    let number = names.len() as u32;
    match names.insert(name, number) {
        None => Ok(name),
        Some(_) => Err(reader.error_at(place, format!("`{name}` is declared twice"))),
    }
}

/// The number of a name that was declared.
fn known(names: &HashMap<&str, u32>, reader: &mut Reader<'_>, what: &str) -> Result<u32, ParseError> {
    let place = reader.place();
    let name = reader.word(what)?;
    names.get(name).copied().ok_or_else(|| reader.error_at(place, format!("expected {what}, found `{name}`")))
}

impl<'a> Parser<'a> {
    /// A line of the head.
    fn declaration(&mut self, reader: &mut Reader<'a>) -> Result<(), ParseError> {
        let place = reader.place();
        let word = reader.word("a declaration, or `{` and the body")?;
        match word {
            "alternative" => {
                let (shape, form) = (reader.string()?, reader.string()?);
                reader.expect_word("vectors")?;
                self.kernel.alternative = Some((shape, Choice { form, vectors: reader.count()? }));
            }
            "winograd" => self.kernel.winograd = Some(winograd(reader)?),
            "loops" => loop {
                let name = declare(&mut self.loops, reader, "a loop variable")?.to_string();
                let role = if reader.take(":") { Some(role(reader)?) } else { None };
                self.kernel.loops.push(LoopDeclaration { name, role });
                if !reader.take(",") {
                    break;
                }
            },
            "variables" => loop {
                let name = declare(&mut self.variables, reader, "a variable")?.to_string();
                self.kernel.variable_names.push(name);
                if !reader.take(",") {
                    break;
                }
            },
            "threads" => self.kernel.split = Some(self.split(reader)?),
            _ => {
                let access = Access::ALL.into_iter().find(|access| access.name() == word);
                let Some(access) = access else {
                    let words = "`input`, `weights`, `scratch`, `output`, `alternative`, `winograd`, `loops`, \
                        `variables`, `threads`";
                    return Err(reader.error_at(place, format!("expected {words} or `{{`, found `{word}`")));
                };
                self.buffer(reader, access)?;
            }
        }
        Ok(())
    }

    fn buffer(&mut self, reader: &mut Reader<'a>, access: Access) -> Result<(), ParseError> {
        let name = declare(&mut self.buffers, reader, "a buffer")?.to_string();
        reader.expect("[")?;
        let elements = reader.count()?;
        reader.expect("]")?;
        let narrow = ElementType::ALL.into_iter().find(|element| reader.take_word(element.name()));
        let storage = narrow.unwrap_or(ElementType::F32);
        if reader.take("in-place") {
            self.kernel.in_place.push(Buffer(self.kernel.buffers.len() as u32));
        }
        self.kernel.buffers.push(BufferDeclaration { name, access, elements, storage });
        Ok(())
    }

    fn split(&self, reader: &mut Reader<'a>) -> Result<Split, ParseError> {
        let parts = reader.count_within(2..=usize::from(u8::MAX) - 1)?;
        let part = if reader.take_word("numbered") { Some(self.loop_var(reader)?) } else { None };
        reader.expect_word("share")?;
        let mut loops = vec![self.loop_var(reader)?];
        while reader.take(",") {
            loops.push(self.loop_var(reader)?);
        }
        Ok(Split { parts, loops, part })
    }

    fn loop_var(&self, reader: &mut Reader<'a>) -> Result<LoopVar, ParseError> {
        known(&self.loops, reader, "a loop variable").map(LoopVar)
    }

    /// Statements up to the brace that ends them.
    fn block(&self, reader: &mut Reader<'a>, depth: usize) -> Result<Vec<Statement>, ParseError> {
        let mut statements = Vec::new();
        loop {
            reader.next_line_or_comment();
            if reader.take("}") {
                return Ok(statements);
            }
            if reader.take(";") {
                let text = reader.line();
                statements.push(Statement::Comment(text.strip_prefix(' ').unwrap_or(text).to_string()));
                continue;
            }
            statements.push(self.statement(reader, depth)?);
        }
    }

    fn statement(&self, reader: &mut Reader<'a>, depth: usize) -> Result<Statement, ParseError> {
        let place = reader.place();
        let word = reader.word("a statement or `}`")?;
        if reader.take("=") {
            let variable = self.variables.get(word).copied();
            let unknown = || reader.error_at(place, format!("`{word}` is no variable of the kernel"));
            return Ok(Statement::Assign(Variable(variable.ok_or_else(unknown)?), self.expression(reader, depth)?));
        }
        match word {
            "for" => self.for_loop(reader, depth),
            "store" => {
                let count = if reader.is_at(|c| c.is_ascii_digit()) { Some(self.lanes(reader)?) } else { None };
                let (buffer, at) = self.element(reader)?;
                reader.expect("=")?;
                let value = self.expression(reader, depth)?;
                Ok(match count {
                    Some(count) => Statement::StorePartial(buffer, at, count, value),
                    None => Statement::Store(buffer, at, value),
                })
            }
            "prefetch" => self.element(reader).map(|(buffer, at)| Statement::Prefetch(buffer, at)),
            "barrier" => Ok(Statement::Barrier),
            _ => {
                let words = "`for`, `store`, `prefetch`, `barrier` or an assignment";
                Err(reader.error_at(place, format!("expected {words}, found `{word}`")))
            }
        }
    }

    fn for_loop(&self, reader: &mut Reader<'a>, depth: usize) -> Result<Statement, ParseError> {
        within(reader, depth)?;
        let var = self.loop_var(reader)?;
        reader.expect_word("in")?;
        let low = self.bound(reader)?;
        reader.expect("..")?;
        let high = self.bound(reader)?;
        reader.expect_word("step")?;
        let step = reader.integer()?;
        let unroll = reader.take_word("unroll");
        reader.expect("{")?;
        reader.end_of_line()?;
        Ok(Statement::For { var, low, high, step, unroll, body: self.block(reader, depth + 1)? })
    }

    /// `3 of`, lanes that are moved.
    fn lanes(&self, reader: &mut Reader<'a>) -> Result<u32, ParseError> {
        let count = reader.count()?;
        reader.expect_word("of")?;
        Ok(count)
    }

    /// Whether bytes are moved, rather than elements of a buffer of that name.
    fn takes_bytes(&self, reader: &mut Reader<'a>) -> bool {
        !self.buffers.contains_key("bytes") && reader.take_word("bytes")
    }

    /// `x[8 * row + 3]`
    fn element(&self, reader: &mut Reader<'a>) -> Result<(Buffer, Affine), ParseError> {
        let buffer = known(&self.buffers, reader, "a buffer")?;
        reader.expect("[")?;
        let at = self.affine(reader)?;
        reader.expect("]")?;
        Ok((Buffer(buffer), at))
    }

    fn bound(&self, reader: &mut Reader<'a>) -> Result<Bound, ParseError> {
        let largest = reader.take_word("max");
        if !largest && !reader.take_word("min") {
            return reader.integer().map(Bound::Constant);
        }
        reader.expect("(")?;
        let limit = reader.integer()?;
        reader.expect(",")?;
        reader.expect_word("ceil")?;
        reader.expect("(")?;
        reader.expect("(")?;
        let affine = self.affine(reader)?;
        reader.expect(")")?;
        reader.expect("/")?;
        let divisor = reader.integer()?;
        reader.expect(")")?;
        reader.expect(")")?;
        Ok(if largest { Bound::Max(limit, affine, divisor) } else { Bound::Min(limit, affine, divisor) })
    }

    /// A sum of numbers and of loop variables with factors.
    fn affine(&self, reader: &mut Reader<'a>) -> Result<Affine, ParseError> {
        let mut sum = Affine::default();
        let mut negative = reader.take("-");
        loop {
            let place = reader.place();
            let number = if reader.is_at(|c| c.is_ascii_digit()) { Some(reader.count::<u64>()?) } else { None };
            let var = match number {
                Some(_) if !reader.take("*") => None,
                _ => Some(self.loop_var(reader)?),
            };
            let size = i128::from(number.unwrap_or(1));
            let term = i64::try_from(if negative { -size } else { size }).ok();
            let added = term.and_then(|term| plus(&mut sum, var, term));
            added.ok_or_else(|| reader.error_at(place, "the number is too large"))?;
            negative = reader.take("-");
            if !negative && !reader.take("+") {
                return Ok(sum);
            }
        }
    }

    fn expression(&self, reader: &mut Reader<'a>, depth: usize) -> Result<Expression, ParseError> {
        within(reader, depth)?;
        if reader.is_at(|c| c == '-' || c.is_ascii_digit()) {
            return reader.number().map(Expression::Constant);
        }
        let place = reader.place();
        let word = reader.word("a value")?;
        if reader.take("(") {
            return self.operation(reader, depth + 1, (place, word));
        }
        // A variable may have the name of an operation, behind which more would come.
        let alone = !reader.is_at(|c| c.is_alphanumeric() || c == '_');
        if let Some(variable) = self.variables.get(word).copied().map(Variable).filter(|_| alone) {
            let lane = if reader.take(".") { Some(reader.count()?) } else { None };
            return Ok(lane.map_or(Expression::Variable(variable), |lane| Expression::Lane(variable, lane)));
        }
        match word {
            "load" if reader.is_at(|c| c.is_ascii_digit()) => {
                let count = self.lanes(reader)?;
                self.element(reader).map(|(buffer, at)| Expression::LoadPartial(buffer, at, count))
            }
            "load" if self.takes_bytes(reader) => {
                self.element(reader).map(|(buffer, at)| Expression::LoadBytes(buffer, at))
            }
            "load" => {
                let (buffer, at) = self.element(reader)?;
                let stride = if reader.take_word("by") { Some(reader.integer()?) } else { None };
                Ok(match stride {
                    Some(stride) => Expression::LoadStrided(buffer, at, stride),
                    None => Expression::Load(buffer, at),
                })
            }
            "whole" => {
                let number = i32::try_from(reader.integer()?);
                number.map(Expression::Whole).map_err(|_| reader.error_at(place, "the number is too large"))
            }
            "broadcast" if self.takes_bytes(reader) => {
                self.element(reader).map(|(buffer, at)| Expression::BroadcastBytes(buffer, at))
            }
            "broadcast" => self.element(reader).map(|(buffer, at)| Expression::Broadcast(buffer, at)),
            "inf" => Ok(Expression::Constant(f32::INFINITY)),
            "NaN" => Ok(Expression::Constant(f32::NAN)),
            _ => Err(reader.error_at(place, format!("`{word}` is no variable of the kernel and no operation"))),
        }
    }

    /// Operands of an operation and what ends them.
    fn operation(
        &self,
        reader: &mut Reader<'a>,
        depth: usize,
        (place, word): (TextPlace, &str),
    ) -> Result<Expression, ParseError> {
        let mut operands = vec![self.expression(reader, depth)?];
        while reader.take(",") {
            operands.push(self.expression(reader, depth)?);
        }
        reader.expect(")")?;
        let mut operands = operands.into_iter().map(Box::new);
        let operands = (operands.next(), operands.next(), operands.next(), operands.next());
        let arithmetic = Arithmetic::ALL.into_iter().find(|function| function.name() == word);
        let function = Function::ALL.into_iter().find(|function| function.name() == word);
        let first = Bytes::ALL.into_iter().find(|first| first.product_name() == word);
        let joining = Joining::ALL.into_iter().find(|joining| joining.name() == word);
        let factors = Factors::ALL.into_iter().find(|factors| factors.sum_name() == word);
        Ok(match (word, arithmetic, function, operands) {
            (_, None, None, (Some(a), Some(b), None, _)) if let Some(joining) = joining => {
                Expression::Join(joining, a, b)
            }
            (_, None, None, (Some(a), Some(b), Some(c), None)) if let Some(factors) = factors => {
                Expression::AddProducts(factors, a, b, c)
            }
            (_, None, None, (Some(a), Some(b), Some(c), None)) if let Some(first) = first => {
                Expression::DotBytes(first, a, b, c)
            }
            ("mul_add", _, _, (Some(a), Some(b), Some(c), None)) => Expression::MulAdd(a, b, c),
            ("sum_lanes", _, _, (Some(a), None, ..)) => Expression::SumLanes(a),
            ("max_lanes", _, _, (Some(a), None, ..)) => Expression::MaxLanes(a),
            (_, Some(function), _, (Some(a), Some(b), None, _)) => Expression::Binary(function, a, b),
            (_, _, Some(function), (Some(a), None, ..)) => Expression::Unary(function, a),
            _ => return Err(reader.error_at(place, format!("there is no operation `{word}` of so many operands"))),
        })
    }
}

/// Adds a term to a sum, if all numbers stay within 64 bits.
fn plus(sum: &mut Affine, var: Option<LoopVar>, term: i64) -> Option<()> {
    let Some(var) = var else {
        sum.constant = sum.constant.checked_add(term)?;
        return Some(());
    };
    let before = sum.terms.iter().find(|(other, _)| *other == var).map_or(0, |(_, coefficient)| *coefficient);
    before.checked_add(term)?;
    *sum = std::mem::take(sum).plus_term(var, term);
    Some(())
}

fn within(reader: &mut Reader<'_>, depth: usize) -> Result<(), ParseError> {
    let place = reader.place();
    if depth < MOST_NESTED {
        return Ok(());
    }
    Err(reader.error_at(place, format!("more than {MOST_NESTED} loops and operations lie inside each other")))
}

fn role(reader: &mut Reader<'_>) -> Result<Role, ParseError> {
    let place = reader.place();
    let name = reader.word("a role")?;
    let roles = || Role::ALL.map(Role::name).join(", ");
    Role::from_name(name).ok_or_else(|| reader.error_at(place, format!("`{name}` is no role: {}", roles())))
}

fn winograd(reader: &mut Reader<'_>) -> Result<Winograd, ParseError> {
    fn number(reader: &mut Reader<'_>, word: &str) -> Result<usize, ParseError> {
        reader.expect_word(word)?;
        reader.count()
    }
    fn numbers<const N: usize>(reader: &mut Reader<'_>, word: &str) -> Result<[usize; N], ParseError> {
        reader.expect_word(word)?;
        let mut found = [0; N];
        for (index, number) in found.iter_mut().enumerate() {
            reader.expect(if index == 0 { "[" } else { "," })?;
            *number = reader.count()?;
        }
        reader.expect("]")?;
        Ok(found)
    }
    Ok(Winograd {
        batch: number(reader, "batch")?,
        channels: number(reader, "channels")?,
        filters: number(reader, "filters")?,
        lanes: number(reader, "lanes")?,
        kernel_depth: number(reader, "depth")?,
        pad: numbers(reader, "pad")?,
        input: numbers(reader, "input")?,
        output: numbers(reader, "output")?,
        tile: numbers(reader, "tile")?,
        taps: numbers(reader, "taps")?,
        vectors: number(reader, "vectors")?,
        pooled: {
            reader.expect_word("pooled")?;
            let pooled = reader.take_word("true");
            if !pooled {
                reader.expect_word("false")?;
            }
            pooled
        },
        activation: reader.ron("activation")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every statement, expression and declaration.
    const ALL: &str = r#"kernel all lanes 4 macs 12 "says \"all\""
input x[64] in-place
weights w[32] i8
scratch digits[64] i8
output y[64]
alternative "3x3 of 8 channels" "F(2 x 2, 3 x 3)" vectors 2
winograd batch 1 channels 8 filters 8 lanes 4 depth 1 pad [0, 1, 1] input [1, 8, 8] output [1, 8, 8] tile [2, 2] taps [3, 3] vectors 1 pooled true Clip(-1.0, inf)
loops row: row, column, part
variables a, b_0, load
threads 3 numbered part share row
{
  ; a comment;  with two spaces 
  for row in 0..8 step 1 {
    for column in max(-2, ceil((-row + 3) / 2))..min(8, ceil((2 * row - column) / 1)) step 2 unroll {
      a = load x[8 * row - 3 * column + 7]
      b_0 = mul_add(load 3 of x[0], load x[row] by -2, broadcast w[5])
      a = dot(load bytes w[0], a, b_0.3)
      a = dot_unsigned(transpose_bytes(broadcast bytes x[row]), whole -2139062144, whole 7)
      a = add_products_high(a, b_0, add_products_low(a, b_0, products_low(a, products_high(a, b_0))))
      a = add_words_low(widen_low(a), widen_high(b_0), add_words_high(a, a, add_neighbours(add_twos(b_0, a), a)))
      load = add(sub(a, -0.0), mul(load, div(1e-45, inf)))
      a = max(-inf, min(neg(abs(sqrt(round(round_small(from_whole(power_of_two(NaN))))))), max_lanes(sum_lanes(a))))
      prefetch w[-row]
      store y[4 * row] = a
      store 2 of y[row] = a
      store digits[0] = load
    }
    barrier
  }
}
"#;

    #[test]
    fn everything_reads_back() {
        let kernel = parse(ALL).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(kernel.to_string(), ALL);
        let dense = ALL.replace("  ; a", ";a").replace(" + ", "+").replace("\nloops", "\n\n  ; more\n loops");
        let again = parse(&dense).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again.to_string(), ALL);
    }

    #[test]
    fn faults_are_named_with_their_place() {
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        for (old, new, place, message) in [
            ("lanes 4 macs", "lanes 4 mac", (1, 20), "expected `macs`"),
            ("output y[64]", "outputs y[64]", (5, 1), "expected `input`, `weights`"),
            ("scratch digits", "scratch x", (4, 9), "`x` is declared twice"),
            ("row: row", "row: rows", (8, 12), "`rows` is no role: batch, group"),
            ("share row", "share rows", (10, 31), "expected a loop variable, found `rows`"),
            ("threads 3", "threads 1", (10, 9), "expected a number from 2 to 254, found 1"),
            ("load x[row] by", "load z[row] by", (16, 42), "expected a buffer, found `z`"),
            ("b_0.3)", "c.3)", (17, 35), "`c` is no variable of the kernel and no operation"),
            ("sqrt(", "root(", (22, 33), "there is no operation `root`"),
            ("add(sub(a, -0.0)", "add(sub(-0.0)", (21, 18), "there is no operation `sub` of so many"),
            ("8 * row - 3", "9223372036854775807 * row + row - 3", (15, 46), "too large"),
            ("    barrier\n  }\n}\n", "    barrier\n  }\n", (30, 1), "expected a statement or `}`"),
        ] {
            assert!(ALL.contains(old), "{old}");
            let error = parse(&ALL.replacen(old, new, 1)).expect_err(new);
            assert!(error.message.contains(message), "{new}: {error}");
            found.push((error.line, error.column));
            expected.push(place);
        }
        assert_eq!(found, expected);
        let nested = ALL.replace("store y[4 * row] = a", &format!("a = {}a{}", "neg(".repeat(5000), ")".repeat(5000)));
        assert!(parse(&nested).expect_err("too deep").message.contains("more than 100"));
    }
}
