//! Whether arrays of a file fit a model's inputs: shapes axis by axis, labels by the classes, scale by what pictures are.

/// Layout of images in a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum DataLayout {
    Nchw,
    Nhwc,
}

/// The shape that an array has in its file, for an input of this shape.
pub fn expected(wanted: &[usize], layout: Option<DataLayout>) -> Vec<usize> {
    let mut shape = wanted.to_vec();
    if layout == Some(DataLayout::Nhwc) && shape.len() >= 3 {
        shape[1..].rotate_left(1);
    }
    shape
}

/// What to do about an array of shape `found` for an input of shape `wanted`, which differ; the layout is what the user
/// said it is.
pub fn hint(found: &[usize], wanted: &[usize], layout: Option<DataLayout>) -> Option<String> {
    let is_nhwc = layout == Some(DataLayout::Nhwc);
    let other = if is_nhwc { None } else { Some(DataLayout::Nhwc) };
    let rest = |shape: &[usize]| shape.get(1..).map_or(Vec::new(), <[usize]>::to_vec);
    let python = |shape: &[usize]| shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let (wanted, turned) = (expected(wanted, layout), expected(wanted, other));
    if wanted.len() >= 3 && rest(found) == rest(&turned) && turned != wanted {
        return Some(match is_nhwc {
            true => "leave --layout nhwc out: the array has channels before height and width".to_string(),
            false => "the array seems to have channels last; say --layout nhwc".to_string(),
        });
    }
    if wanted.len() == found.len() + 1 && wanted[1..] == *found {
        return Some("the first axis, which counts samples, is missing; save x[None]".to_string());
    }
    let plain = |shape: &[usize]| shape.iter().copied().filter(|extent| *extent != 1).collect::<Vec<usize>>();
    if plain(found) == plain(&wanted) {
        return Some(format!("only axes of one element differ; save x.reshape({})", python(&wanted)));
    }
    if let ([.., c, d], [.., a, b]) = (found, &wanted[..])
        && found.len() == wanted.len()
        && (c, d) == (b, a)
        && found[..found.len() - 2] == wanted[..wanted.len() - 2]
    {
        return Some("the last two axes are exchanged; save numpy.swapaxes(x, -1, -2)".to_string());
    }
    let count = |shape: &[usize]| shape.iter().map(|extent| *extent as u128).product::<u128>();
    if count(found) == count(&wanted) {
        return Some("it has as many elements, but along other axes; order them as the model has them".to_string());
    }
    None
}

/// Why labels are no classes of a model, and what to do, if so.
pub fn label_fault(labels: &[usize], classes: usize) -> Option<(String, String)> {
    let (sample, label) = labels.iter().enumerate().find(|(_, label)| **label >= classes)?;
    let message = format!(
        "label {label} of sample {sample} is no class: the model has classes 0 to {}",
        classes.saturating_sub(1)
    );
    let largest = labels.iter().max().copied().unwrap_or(0);
    let from_one = largest == classes && !labels.contains(&0);
    let help = match from_one {
        true => "do labels start at 1? subtract 1 from each",
        false => "labels count the model's classes from 0; is this the right model, and the right output?",
    };
    Some((message, help.to_string()))
}

/// A warning about pictures in bytes that nobody brought to the scale of a model's input, if these are such.
pub fn unnormalised(elements: &[f32]) -> Option<String> {
    let largest = elements.iter().fold(0.0f32, |largest, element| largest.max(*element));
    let are_bytes = elements.iter().all(|element| (0.0..=255.0).contains(element) && element.fract() == 0.0);
    (are_bytes && largest > 32.0).then(|| {
        format!(
            "`x` holds whole numbers from 0 to {largest}, as pictures in bytes do, and nothing normalises them; if the model \
             was trained on numbers from 0 to 1, say --normalize mean=0,std=255"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_get_the_hint_that_mends_them() {
        let nhwc = Some(DataLayout::Nhwc);
        for (found, wanted, layout, part) in [
            (vec![20, 32, 32, 3], vec![1, 3, 32, 32], None, "say --layout nhwc"),
            (vec![20, 3, 32, 32], vec![1, 3, 32, 32], nhwc, "leave --layout nhwc out"),
            (vec![3, 32, 32], vec![1, 3, 32, 32], None, "x[None]"),
            (vec![1, 28, 28], vec![1, 1, 28, 28], None, "x[None]"),
            (vec![28, 28], vec![1, 1, 28, 28], None, "x.reshape(1, 1, 28, 28)"),
            (vec![1, 784], vec![1, 1, 28, 28], None, "along other axes"),
            (vec![1, 3, 64, 32], vec![1, 3, 32, 64], None, "last two axes"),
            (vec![1, 80, 7], vec![1, 7, 80], None, "say --layout nhwc"),
        ] {
            let said = hint(&found, &wanted, layout).unwrap_or_default();
            assert!(said.contains(part), "{found:?} for {wanted:?}: {said}");
        }
        assert_eq!(hint(&[20, 3, 28, 28], &[1, 3, 32, 32], None), None);
        assert_eq!(expected(&[1, 3, 32, 64], nhwc), [1, 32, 64, 3]);
        assert_eq!(expected(&[1, 10], nhwc), [1, 10]);
    }

    #[test]
    fn labels_are_classes() {
        assert_eq!(label_fault(&[0, 9], 10), None);
        let said = label_fault(&[1, 10], 10).expect("10 is no class");
        assert!(said.0.contains("label 10 of sample 1") && said.0.contains("classes 0 to 9"), "{said:?}");
        assert!(said.1.contains("start at 1?"), "{said:?}");
        assert!(!label_fault(&[0, 10], 10).expect("10 is no class").1.contains("start at 1?"));
    }

    #[test]
    fn pictures_in_bytes_are_noticed() {
        assert!(unnormalised(&[0.0, 17.0, 255.0]).is_some());
        assert!(unnormalised(&[0.0, 0.5, 255.0]).is_none());
        assert!(unnormalised(&[0.0, 1.0]).is_none());
        assert!(unnormalised(&[-1.0, 200.0]).is_none());
    }
}
