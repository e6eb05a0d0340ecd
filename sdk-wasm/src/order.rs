//! The one sort of this crate, a heapsort in few words: each instantiation of the standard library's would add 5 to 12 KB
//! to every policy, which every gateway loads and compiles.

use std::cmp::Ordering;

/// The positions `0..len` in the order of what stands there; equals keep their positions' order.
pub(crate) fn order(len: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let less = |one: usize, other: usize| compare(one, other).then(one.cmp(&other)) == Ordering::Less;
    let mut heap: Vec<usize> = (0..len).collect();
    for parent in (0..len / 2).rev() {
        sift_down(&mut heap, parent, &less);
    }
    for end in (1..len).rev() {
        heap.swap(0, end);
        sift_down(&mut heap[..end], 0, &less);
    }
    heap
}

/// Lets the entry sink until neither of its children is greater.
fn sift_down(heap: &mut [usize], mut parent: usize, less: &dyn Fn(usize, usize) -> bool) {
    loop {
        let mut child = 2 * parent + 1;
        if child >= heap.len() {
            return;
        }
        if child + 1 < heap.len() && less(heap[child], heap[child + 1]) {
            child += 1;
        }
        if !less(heap[parent], heap[child]) {
            return;
        }
        heap.swap(parent, child);
        parent = child;
    }
}

/// The items in order; equals keep their order.
pub(crate) fn sorted<T: Copy>(items: &[T], compare: impl Fn(&T, &T) -> Ordering) -> Vec<T> {
    // Positions are below the length throughout.
    let by_position = |one: usize, other: usize| compare(&items[one], &items[other]);
    order(items.len(), &by_position).into_iter().map(|position| items[position]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_sorts_as_the_standard_library_does(items in proptest::collection::vec((0u8..8, any::<u8>()), 0..60)) {
            let mut expected = items.clone();
            expected.sort_by_key(|(key, _)| *key);
            prop_assert_eq!(sorted(&items, |one, other| one.0.cmp(&other.0)), expected);
        }
    }
}
