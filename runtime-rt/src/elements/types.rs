//! Element types that Rust has no type for, as bytes, as truth values, and as what they are converted to and from.

use core::cmp::Ordering;

/// IEEE 754 binary16, by its bits. Computed with in `f32`, every result rounded.
#[derive(Clone, Copy, Debug, Default)]
#[repr(transparent)]
pub struct F16(pub u16);

/// bfloat16, by its bits: the upper half of an `f32`. Computed with in `f32`, every result rounded.
#[derive(Clone, Copy, Debug, Default)]
#[repr(transparent)]
pub struct Bf16(pub u16);

/// A byte that is false if 0 and true if anything else: unlike `bool`, it may hold whatever a caller or a link brings.
#[derive(Clone, Copy, Debug, Default)]
#[repr(transparent)]
pub struct Bool(pub u8);

impl F16 {
    /// The nearest number, halves to the even one; infinite from 65520 on. NaN stays NaN.
    #[inline]
    pub fn from_f32(x: f32) -> F16 {
        let sign = x.to_bits() >> 16 & 0x8000;
        let magnitude = x.to_bits() & 0x7fff_ffff;
        // All ways are taken and one is chosen, so that loops over elements become vectors.
        let odd = magnitude >> 13 & 1;
        // From 2^-14 on: another bias of the exponent, and 13 bits less.
        let normal = magnitude.wrapping_sub(0x3800_0000).wrapping_add(0xfff + odd) >> 13;
        // The sum with 0.5 has steps of 2^-24, those of the smallest numbers.
        let small = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        let large = if magnitude > 0x7f80_0000 { 0x7e00 | (magnitude >> 13 & 0x3ff) } else { 0x7c00 };
        let finite = if magnitude < 0x3880_0000 { small } else { normal };
        F16((sign | if magnitude < 0x477f_f000 { finite } else { large }) as u16)
    }

    /// The same number.
    #[inline]
    pub fn to_f32(self) -> f32 {
        let bits = u32::from(self.0);
        let (sign, magnitude) = ((bits & 0x8000) << 16, bits & 0x7fff);
        let normal = (magnitude << 13).wrapping_add(0x3800_0000);
        // Zero and the smallest numbers: fraction * 2^-24.
        let small = (magnitude as f32 * f32::from_bits(0x3380_0000)).to_bits();
        let large = magnitude << 13 | 0x7f80_0000;
        let finite = if magnitude < 0x400 { small } else { normal };
        f32::from_bits(sign | if magnitude < 0x7c00 { finite } else { large })
    }
}

impl Bf16 {
    /// The nearest number, halves to the even one.
    #[inline]
    pub fn from_f32(x: f32) -> Bf16 {
        let bits = x.to_bits();
        if x.is_nan() {
            return Bf16((bits >> 16) as u16 | 0x40);
        }
        Bf16(((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16)
    }

    /// The same number.
    #[inline]
    pub fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

/// Element types that any bytes are, so that memory which callers, files or links have filled may be read as them.
///
/// ```compile_fail
/// let arena = partita_rt::Arena::<8>::new();
/// // A byte of 2 is no `bool`.
/// let _ = unsafe { arena.slice::<bool>(0, 8) };
/// ```
///
/// ```
/// let arena = partita_rt::Arena::<8>::new();
/// // SAFETY: eight bytes lie in the arena, and nothing writes them.
/// let _ = unsafe { arena.slice::<partita_rt::Bool>(0, 8) };
/// ```
///
/// # Safety
/// Every pattern of bits of the type's size is a value of it.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($name:ident)*) => {$(
        // SAFETY: an integer, a float, or a transparent one of those: every pattern of bits is a value.
        unsafe impl Plain for $name {}
    )*};
}

plain!(f32 f64 F16 Bf16 i64 i32 i16 i8 u64 u32 u16 u8 Bool);

/// A truth value.
pub trait Truth: Copy {
    /// What it says.
    fn holds(self) -> bool;

    /// The value that says so.
    fn of(holds: bool) -> Self;
}

impl Truth for bool {
    #[inline]
    fn holds(self) -> bool {
        self
    }

    #[inline]
    fn of(holds: bool) -> bool {
        holds
    }
}

impl Truth for Bool {
    #[inline]
    fn holds(self) -> bool {
        self.0 != 0
    }

    #[inline]
    fn of(holds: bool) -> Bool {
        Bool(u8::from(holds))
    }
}

impl From<bool> for Bool {
    fn from(holds: bool) -> Bool {
        Bool::of(holds)
    }
}

impl From<Bool> for bool {
    fn from(byte: Bool) -> bool {
        byte.holds()
    }
}

impl PartialEq for Bool {
    fn eq(&self, other: &Bool) -> bool {
        self.holds() == other.holds()
    }
}

impl PartialOrd for Bool {
    fn partial_cmp(&self, other: &Bool) -> Option<Ordering> {
        self.holds().partial_cmp(&other.holds())
    }
}

/// Conversion as ONNX Cast does it: floats to integers truncate. What does not fit wraps around, but floats saturate in
/// 64 bits (ONNX leaves both open); anything but 0 is true.
pub trait CastTo<T>: Copy {
    /// The element of the other type.
    fn cast(self) -> T;
}

macro_rules! casts_between_numbers {
    ($($from:ident through $wide:ident to $($to:ident)*;)*) => {$($(
        impl CastTo<$to> for $from {
            #[inline]
            fn cast(self) -> $to {
                self as $wide as $to
            }
        }
    )*)*};
}

casts_between_numbers! {
    f32 through f32 to f32 f64 i64 u64;
    f32 through i64 to i32 i16 i8 u32 u16 u8;
    f64 through f64 to f32 f64 i64 u64;
    f64 through i64 to i32 i16 i8 u32 u16 u8;
    i64 through i64 to f32 f64 i64 i32 i16 i8 u64 u32 u16 u8;
    i32 through i32 to f32 f64 i64 i32 i16 i8 u64 u32 u16 u8;
    i16 through i16 to f32 f64 i64 i32 i16 i8 u64 u32 u16 u8;
    i8 through i8 to f32 f64 i64 i32 i16 i8 u64 u32 u16 u8;
    u64 through u64 to f32 f64 i64 i32 i16 i8 u64 u32 u16 u8;
    u32 through u32 to f32 f64 i64 i32 i16 i8 u64 u32 u16 u8;
    u16 through u16 to f32 f64 i64 i32 i16 i8 u64 u32 u16 u8;
    u8 through u8 to f32 f64 i64 i32 i16 i8 u64 u32 u16 u8;
}

macro_rules! casts_to_named {
    ($($from:ident)*) => {$(
        impl CastTo<F16> for $from {
            #[inline]
            fn cast(self) -> F16 {
                F16::from_f32(self as f32)
            }
        }

        impl CastTo<Bf16> for $from {
            #[inline]
            fn cast(self) -> Bf16 {
                Bf16::from_f32(self as f32)
            }
        }

        impl CastTo<Bool> for $from {
            #[inline]
            fn cast(self) -> Bool {
                Bool::of(self != 0 as $from)
            }
        }

        impl CastTo<bool> for $from {
            #[inline]
            fn cast(self) -> bool {
                self != 0 as $from
            }
        }
    )*};
}

casts_to_named!(f32 f64 i64 i32 i16 i8 u64 u32 u16 u8);

/// The same bits as an element of another type of the same size (ONNX BitCast).
pub trait SeenAs<T>: Copy {
    /// The element of the other type.
    fn seen(self) -> T;
}

macro_rules! seen_as {
    ($($real:ident as $($whole:ident)*: $x:ident to $to_bits:expr, from $from_bits:path;)*) => {$($(
        impl SeenAs<$whole> for $real {
            #[inline]
            fn seen(self) -> $whole {
                let $x = self;
                $to_bits as $whole
            }
        }

        impl SeenAs<$real> for $whole {
            #[inline]
            fn seen(self) -> $real {
                $from_bits(self as _)
            }
        }
    )*)*};
}

seen_as! {
    f32 as i32 u32: x to x.to_bits(), from f32::from_bits;
    f64 as i64 u64: x to x.to_bits(), from f64::from_bits;
    F16 as i16 u16: x to x.0, from F16;
    Bf16 as i16 u16: x to x.0, from Bf16;
}

impl<T> CastTo<T> for F16
where
    f32: CastTo<T>,
{
    #[inline]
    fn cast(self) -> T {
        self.to_f32().cast()
    }
}

impl<T> CastTo<T> for Bf16
where
    f32: CastTo<T>,
{
    #[inline]
    fn cast(self) -> T {
        self.to_f32().cast()
    }
}

impl<T> CastTo<T> for Bool
where
    u8: CastTo<T>,
{
    #[inline]
    fn cast(self) -> T {
        u8::from(self.holds()).cast()
    }
}

impl<T> CastTo<T> for bool
where
    u8: CastTo<T>,
{
    #[inline]
    fn cast(self) -> T {
        u8::from(self).cast()
    }
}

#[cfg(test)]
mod tests {
    use super::{Bf16, Bool, CastTo, F16, SeenAs, Truth};

    #[test]
    fn halves_become_what_they_mean_and_come_back() {
        for (bits, value) in [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, f32::from_bits(0x3380_0000)),
            (0x3555, 0.333_251_95),
        ] {
            assert_eq!(F16(bits).to_f32(), value, "{bits:#06x}");
        }
        assert_eq!(F16(0x7c00).to_f32(), f32::INFINITY);
        for bits in (0..=u16::MAX).step_by(if cfg!(miri) { 255 } else { 1 }) {
            let value = F16(bits).to_f32();
            assert!(value.is_nan() || F16::from_f32(value).0 == bits, "{bits:#06x}");
        }
        assert!(F16::from_f32(f32::NAN).to_f32().is_nan() && Bf16::from_f32(f32::NAN).to_f32().is_nan());
    }

    #[test]
    fn numbers_are_rounded_to_the_nearest_half() {
        for (value, expected) in [
            (70000.0, f32::INFINITY),
            (65519.9, 65504.0),
            (65520.0, f32::INFINITY),
            (-1e30, f32::NEG_INFINITY),
            (2049.0, 2048.0),
            (2051.0, 2052.0),
            (0.1, 0.099_975_586),
            // Halves of the smallest number.
            (f32::from_bits(0x3300_0000), 0.0),
            (f32::from_bits(0x3300_0001), f32::from_bits(0x3380_0000)),
            (f32::from_bits(0x3340_0000), f32::from_bits(0x3380_0000)),
            (1e-30, 0.0),
        ] {
            assert_eq!(F16::from_f32(value).to_f32(), expected, "{value}");
        }
        // Between two neighbours the nearer one, of all that there are.
        for bits in (0..0x7bffu16).step_by(if cfg!(miri) { 255 } else { 1 }) {
            let (low, high) = (F16(bits).to_f32(), F16(bits + 1).to_f32());
            let middle = low + (high - low) / 2.0;
            let even = if bits & 1 == 0 { bits } else { bits + 1 };
            assert_eq!(F16::from_f32(middle).0, even, "{middle}");
            assert_eq!(F16::from_f32(f32::from_bits(middle.to_bits() + 1)).0, bits + 1, "above {middle}");
            assert_eq!(F16::from_f32(-f32::from_bits(middle.to_bits() - 1)).0, bits | 0x8000, "below {middle}");
        }
        assert_eq!(Bf16::from_f32(1.003_906_3).to_f32(), 1.0);
        assert_eq!(Bf16::from_f32(1.011_718_8).to_f32(), 1.015_625);
        assert_eq!(Bf16::from_f32(3.4e38).to_f32(), f32::INFINITY);
    }

    #[test]
    fn a_byte_is_true_whatever_it_holds() {
        assert!(Bool(2).holds() && Bool(255) == Bool(1) && Bool(0) != Bool(7));
        let ones: [i64; 3] = [Bool(0).cast(), Bool(1).cast(), Bool(254).cast()];
        assert_eq!(ones, [0, 1, 1]);
        let again: Bool = Bool(9).cast();
        assert_eq!(again.0, 1);
    }

    #[test]
    fn bits_come_and_go() {
        let (minus_one, nan): (i32, u32) = ((-1.0f32).seen(), f32::from_bits(0x7fc0_1234).seen());
        assert_eq!((minus_one, nan), (0xbf80_0000u32 as i32, 0x7fc0_1234));
        let (one, half, two): (f64, i16, Bf16) =
            (0x3ff0_0000_0000_0000u64.seen(), F16(0xc000).seen(), 0x4000u16.seen());
        assert_eq!((one, half, two.to_f32()), (1.0, 0xc000u16 as i16, 2.0));
    }

    #[test]
    fn casts_truncate_and_wrap() {
        let cast = |x: f32| -> (i64, i32, i8, u8) { (x.cast(), x.cast(), x.cast(), x.cast()) };
        assert_eq!(cast(-3.9), (-3, -3, -3, 253));
        assert_eq!(cast(300.5), (300, 300, 44, 44));
        assert_eq!(cast(f32::NAN), (0, 0, 0, 0));
        assert_eq!(CastTo::<i64>::cast(1e30f32), i64::MAX);
        assert_eq!(CastTo::<i32>::cast((1i64 << 32) + 5), 5);
        assert!(CastTo::<bool>::cast(0.5f32) && !CastTo::<bool>::cast(-0.0f64));
    }
}
