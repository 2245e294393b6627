//! Parameters of the run time's kernels as Rust literals.

use std::fmt::{self, Display, Write};

use serde::ser::{self, Impossible, Serialize};

use super::expressions::float;

/// Where the types of all parameters are.
const KERNELS: &str = "partita_rt::kernels";

/// A value of the run time as the Rust expression that makes it. Structs, enums, numbers, options, arrays and slices of
/// those: what parameters are made of.
pub fn literal(value: &impl Serialize) -> String {
    let mut printer = Printer { text: String::new() };
    // Nothing that a parameter is made of is refused; the expression would not compile.
    match value.serialize(&mut printer) {
        Ok(()) => printer.text,
        Err(Refused(what)) => format!("compile_error!({what:?})"),
    }
}

struct Printer {
    text: String,
}

/// What no parameter is.
#[derive(Debug)]
struct Refused(String);

impl Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl ser::Error for Refused {
    fn custom<T: Display>(message: T) -> Refused {
        Refused(message.to_string())
    }
}

/// Parts of a struct, a tuple or a list that is being printed.
struct Parts<'a> {
    printer: &'a mut Printer,
    is_first: bool,
    /// What closes it.
    end: &'static str,
}

impl<'a> Parts<'a> {
    fn new(printer: &'a mut Printer, begin: &str, end: &'static str) -> Result<Parts<'a>, Refused> {
        printer.text.push_str(begin);
        Ok(Parts { printer, is_first: true, end })
    }

    fn part<T: Serialize + ?Sized>(&mut self, name: Option<&str>, value: &T) -> Result<(), Refused> {
        if !std::mem::replace(&mut self.is_first, false) {
            self.printer.text.push_str(", ");
        }
        if let Some(name) = name {
            self.printer.text.push_str(&format!("{name}: "));
        }
        value.serialize(&mut *self.printer)
    }

    fn close(self) -> Result<(), Refused> {
        self.printer.text.push_str(self.end);
        Ok(())
    }
}

macro_rules! printed {
    ($($method:ident $kind:ident)*) => {$(
        fn $method(self, value: $kind) -> Result<(), Refused> {
            // Writing to a string cannot fail.
            let _ = write!(self.text, "{value}");
            Ok(())
        }
    )*};
}

macro_rules! refused {
    ($($method:ident($($kind:ty),*) -> $result:ty;)*) => {$(
        fn $method(self, $(_: $kind),*) -> Result<$result, Refused> {
            Err(Refused(concat!(stringify!($method), ": no parameter is such a value").to_string()))
        }
    )*};
}

impl<'a> ser::Serializer for &'a mut Printer {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = Parts<'a>;
    type SerializeTuple = Parts<'a>;
    type SerializeTupleStruct = Impossible<(), Refused>;
    type SerializeTupleVariant = Parts<'a>;
    type SerializeMap = Impossible<(), Refused>;
    type SerializeStruct = Parts<'a>;
    type SerializeStructVariant = Parts<'a>;

    printed! {
        serialize_bool bool
        serialize_i64 i64
        serialize_u32 u32
        serialize_u64 u64
    }

    refused! {
        serialize_i8(i8) -> ();
        serialize_i16(i16) -> ();
        serialize_i32(i32) -> ();
        serialize_u8(u8) -> ();
        serialize_u16(u16) -> ();
        serialize_f64(f64) -> ();
        serialize_char(char) -> ();
        serialize_str(&str) -> ();
        serialize_bytes(&[u8]) -> ();
        serialize_unit() -> ();
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct;
        serialize_map(Option<usize>) -> Self::SerializeMap;
    }

    fn serialize_f32(self, value: f32) -> Result<(), Refused> {
        self.text.push_str(&float(value));
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Refused> {
        self.text.push_str("None");
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refused> {
        self.text.push_str("Some(");
        value.serialize(&mut *self)?;
        self.text.push(')');
        Ok(())
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<(), Refused> {
        self.text.push_str(&format!("{KERNELS}::{name}"));
        Ok(())
    }

    fn serialize_unit_variant(self, name: &'static str, _: u32, variant: &'static str) -> Result<(), Refused> {
        self.text.push_str(&format!("{KERNELS}::{name}::{variant}"));
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<(), Refused> {
        self.text.push_str(&format!("{KERNELS}::{name}("));
        value.serialize(&mut *self)?;
        self.text.push(')');
        Ok(())
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        self.text.push_str(&format!("{KERNELS}::{name}::{variant}("));
        value.serialize(&mut *self)?;
        self.text.push(')');
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts<'a>, Refused> {
        Parts::new(self, "&[", "]")
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts<'a>, Refused> {
        Parts::new(self, "[", "]")
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts<'a>, Refused> {
        Parts::new(self, &format!("{KERNELS}::{name}::{variant}("), ")")
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Parts<'a>, Refused> {
        Parts::new(self, &format!("{KERNELS}::{name} {{ "), " }")
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts<'a>, Refused> {
        Parts::new(self, &format!("{KERNELS}::{name}::{variant} {{ "), " }")
    }
}

macro_rules! parts {
    ($($kind:ident $method:ident;)*) => {$(
        impl ser::$kind for Parts<'_> {
            type Ok = ();
            type Error = Refused;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
                self.part(None, value)
            }

            fn end(self) -> Result<(), Refused> {
                self.close()
            }
        }
    )*};
}

parts! {
    SerializeSeq serialize_element;
    SerializeTuple serialize_element;
    SerializeTupleVariant serialize_field;
}

macro_rules! fields {
    ($($kind:ident)*) => {$(
        impl ser::$kind for Parts<'_> {
            type Ok = ();
            type Error = Refused;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Refused> {
                self.part(Some(name), value)
            }

            fn end(self) -> Result<(), Refused> {
                self.close()
            }
        }
    )*};
}

fields!(SerializeStruct SerializeStructVariant);

#[cfg(test)]
mod tests {
    use super::literal;
    use partita_rt::kernels::{
        Activation, Call, Cast, Decide, ExitRule, Pad, PadMode, Patience, Slice, Unary, UnaryOp,
    };

    #[test]
    fn parameters_are_what_one_would_write() {
        let slice = Slice { x_shape: &[4, 5], y_shape: &[2, 5], starts: &[3, 0], steps: &[-2, 1] };
        assert_eq!(
            literal(&Call::Slice(slice)),
            "partita_rt::kernels::Slice { x_shape: &[4, 5], y_shape: &[2, 5], starts: &[3, 0], steps: &[-2, 1] }"
        );
        assert_eq!(literal(&Call::Cast(Cast)), "partita_rt::kernels::Cast");
        let pad = Pad { x_shape: &[], y_shape: &[], begin: &[], mode: PadMode::Constant(f32::NEG_INFINITY) };
        assert_eq!(
            literal(&pad),
            "partita_rt::kernels::Pad { x_shape: &[], y_shape: &[], begin: &[], \
             mode: partita_rt::kernels::PadMode::Constant(f32::from_bits(0xff800000)) }"
        );
        let decide =
            Decide { rule: ExitRule::Margin, temperature: Some(2.0), patience: Some(Patience { runs: 3, doubt: 0.1 }) };
        assert_eq!(
            literal(&decide),
            "partita_rt::kernels::Decide { rule: partita_rt::kernels::ExitRule::Margin, temperature: Some(2.0), \
             patience: Some(partita_rt::kernels::Patience { runs: 3, doubt: 0.1 }) }"
        );
        let clip = Unary { function: UnaryOp::Activation(Activation::Clip(0.0, 6.0)) };
        assert_eq!(
            literal(&clip),
            "partita_rt::kernels::Unary { function: partita_rt::kernels::UnaryOp::Activation(\
             partita_rt::kernels::Activation::Clip(0.0, 6.0)) }"
        );
        assert_eq!(
            literal(&UnaryOp::Selu { alpha: 1.5, gamma: -0.5 }),
            "partita_rt::kernels::UnaryOp::Selu { alpha: 1.5, gamma: -0.5 }"
        );
        assert_eq!(literal(&[1usize, 2, 3]), "[1, 2, 3]");
    }
}
