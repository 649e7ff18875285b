//! An ordered list of recipients that costs no memory of its own: two links in each entry.
//!
//! It is a sorted run with a leftist heap beside it. What arrives in order (new mail: by expiry, then by position) is
//! appended to the run in O(1); what does not (retries) goes to the heap in O(log n). Worst case O(log n) per step, never
//! amortised: no push or pop stalls behind a million others, as a growing array, a pairing heap or a timer wheel's
//! cascade would. Taking a whole list is O(1), which is what makes the operator's bulk verbs cheap.
//! An entry in the middle cannot be removed; it is marked dead and dropped when it comes to the front.

use super::store::{NONE, Store};

/// By which time. Ties go by position and number, so that recipients of one message are neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Expiry,
    Due,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Ordered {
    by: By,
    /// The sorted run, linked by `right`.
    head: u32,
    tail: u32,
    /// The heap.
    root: u32,
}

impl Ordered {
    pub(super) const fn new(by: By) -> Self {
        Self {
            by,
            head: NONE,
            tail: NONE,
            root: NONE,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head == NONE && self.root == NONE
    }

    pub(super) fn push(&mut self, store: &mut Store, index: u32) {
        let entry = &mut store[index];
        (entry.left, entry.right) = (NONE, NONE);
        entry.set_rank(1);
        if self.head == NONE {
            (self.head, self.tail) = (index, index);
        } else if !before(store, self.by, index, self.tail) {
            store[self.tail].right = index;
            self.tail = index;
        } else {
            self.root = meld(store, self.by, self.root, index);
        }
    }

    pub(super) fn peek(&self, store: &Store) -> Option<u32> {
        match (self.head, self.root) {
            (NONE, NONE) => None,
            (head, NONE) => Some(head),
            (NONE, root) => Some(root),
            (head, root) if before(store, self.by, root, head) => Some(root),
            (head, _) => Some(head),
        }
    }

    pub(super) fn pop(&mut self, store: &mut Store) -> Option<u32> {
        let first = self.peek(store)?;
        if first == self.head {
            self.head = store[first].right;
        } else {
            let (left, right) = (store[first].left, store[first].right);
            self.root = meld(store, self.by, left, right);
        }
        Some(first)
    }

    /// Leaves an empty list behind.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(self.by))
    }

    /// Every entry, in no particular order. O(n): for operators and tests.
    pub(super) fn indexes(&self, store: &Store) -> Vec<u32> {
        let mut found = Vec::new();
        let mut next = self.head;
        while next != NONE {
            found.push(next);
            next = store[next].right;
        }
        let mut open = vec![self.root];
        while let Some(index) = open.pop() {
            if index != NONE {
                found.push(index);
                open.extend([store[index].left, store[index].right]);
            }
        }
        found
    }
}

fn before(store: &Store, by: By, a: u32, b: u32) -> bool {
    let key = |index: u32| {
        let entry = &store[index];
        let time = match by {
            By::Expiry => entry.expires,
            By::Due => entry.due,
        };
        (time, entry.position(), entry.number)
    };
    key(a) < key(b)
}

/// Melds two leftist heaps along their right spines, without recursion.
fn meld(store: &mut Store, by: By, mut a: u32, mut b: u32) -> u32 {
    let mut path = [NONE; SPINES_MAX];
    let mut length = 0;
    let mut melded = loop {
        match (a, b) {
            (NONE, rest) | (rest, NONE) => break rest,
            _ => {}
        }
        if before(store, by, b, a) {
            std::mem::swap(&mut a, &mut b);
        }
        path[length] = a;
        length += 1;
        a = store[a].right;
    };
    for &parent in path[..length].iter().rev() {
        let left = store[parent].left;
        let (high, low) = if rank(store, left) < rank(store, melded) {
            (melded, left)
        } else {
            (left, melded)
        };
        let above = rank(store, low) + 1;
        let entry = &mut store[parent];
        (entry.left, entry.right) = (high, low);
        entry.set_rank(above);
        melded = parent;
    }
    melded
}

fn rank(store: &Store, index: u32) -> u8 {
    if index == NONE {
        0
    } else {
        store[index].rank()
    }
}

/// A heap of n entries has a right spine of at most log2(n + 1), and ranks fit five bits up to 2^31 entries: two spines.
const SPINES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::store::Entry;
    use super::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order_of_time_then_message(
            keys in prop::collection::vec((0u32..50, 0u64..20), 0..300),
            pops in prop::collection::vec(any::<bool>(), 0..300),
        ) {
            let (mut store, mut list) = (Store::new(), Ordered::new(By::Expiry));
            let mut model = std::collections::BTreeSet::new();
            let mut pops = pops.into_iter();
            for (number, (expires, position)) in keys.into_iter().enumerate() {
                let index = store.insert(Entry::new(position, number as u16, 0, 0, expires));
                list.push(&mut store, index);
                model.insert((expires, position, number as u16));
                if pops.next() == Some(true) {
                    let index = list.pop(&mut store).unwrap();
                    let entry = store[index];
                    prop_assert_eq!(model.pop_first().unwrap(), (entry.expires, entry.position(), entry.number));
                    store.remove(index);
                }
                prop_assert_eq!(list.indexes(&store).len(), model.len());
            }
            while let Some(index) = list.pop(&mut store) {
                let entry = store[index];
                prop_assert_eq!(model.pop_first().unwrap(), (entry.expires, entry.position(), entry.number));
                store.remove(index);
            }
            prop_assert!(model.is_empty() && list.is_empty() && store.len() == 0);
        }
    }
}
