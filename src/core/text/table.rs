//! Tables for a terminal: columns as wide as their widest cells, with blanks in between. Pure.

use crate::cut::Cut;
use crate::width;

/// One column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Column {
    /// How many columns of the terminal it takes. A cell that is wider is cut.
    pub width: usize,
    /// Whether its cells are aligned to the right, as numbers are.
    pub right: bool,
}

/// The columns of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    columns: Vec<Column>,
    gap: usize,
    mark: &'static str,
}

impl Columns {
    /// Columns with `gap` blanks between two.
    #[must_use]
    pub fn new(columns: impl IntoIterator<Item = Column>, gap: usize) -> Self {
        Self { columns: columns.into_iter().collect(), gap, mark: "…" }
    }

    /// Columns that are as wide as the widest cells of these rows, all aligned to the left.
    #[must_use]
    pub fn of<const N: usize>(rows: &[[String; N]], gap: usize) -> Self {
        let mut columns = Self::new([Column::default(); N], gap);
        rows.iter().for_each(|row| columns.widen(row));
        columns
    }

    /// With another mark where a cell is cut.
    #[must_use]
    pub const fn mark(mut self, mark: &'static str) -> Self {
        self.mark = mark;
        self
    }

    /// Makes each column wide enough for a row.
    pub fn widen(&mut self, cells: &[String]) {
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            column.width = column.width.max(width(cell));
        }
    }

    /// Makes the widest columns narrower until the table is at most `total` wide, if that is possible. No column becomes
    /// narrower than `narrowest`, and those of numbers stay as they are.
    pub fn shrink(&mut self, total: usize, narrowest: usize) {
        loop {
            let widths = self.columns.iter().map(|column| column.width);
            let now = widths.sum::<usize>() + self.gap * self.columns.len().saturating_sub(1);
            let over = now.saturating_sub(total);
            if over == 0 {
                return;
            }
            let can = self.columns.iter().enumerate().filter(|(_, column)| column.width > narrowest && !column.right);
            let Some((widest, Column { width, .. })) = can.clone().max_by_key(|(_, column)| column.width) else {
                return;
            };
            let next = can.filter(|(at, _)| *at != widest).map(|(_, column)| column.width).max();
            // Down to the next widest at once, but at least by one.
            let floor = next.unwrap_or(narrowest).min(width - 1).max(narrowest);
            self.columns[widest].width = width.saturating_sub(over).max(floor);
        }
    }

    /// One line of the table: each cell cut to its column, passed through `paint` with the column's index, and padded. Nothing
    /// is padded at the end of the line.
    pub fn line(&self, out: &mut String, cells: &[String], paint: impl Fn(usize, &str) -> String) {
        let mut blanks = 0;
        for (index, (cell, column)) in cells.iter().zip(&self.columns).enumerate() {
            let text = Cut::columns(column.width).mark(self.mark).apply(cell);
            let pad = column.width.saturating_sub(width(&text));
            let (before, after) = if column.right { (pad, 0) } else { (0, pad) };
            if !text.is_empty() {
                out.extend(std::iter::repeat_n(' ', blanks + before));
                out.push_str(&paint(index, &text));
                blanks = 0;
            } else {
                blanks += before;
            }
            blanks += after + self.gap;
        }
        out.push('\n');
    }

    /// A line without colours.
    pub fn plain_line(&self, out: &mut String, cells: &[String]) {
        self.line(out, cells, |_, text| text.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<const N: usize>(cells: [&str; N]) -> [String; N] {
        cells.map(str::to_owned)
    }

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let rows = [row(["a", "目录", "x"]), row(["long", "", ""]), row(["", "b", "y "])];
        let columns = Columns::of(&rows, 2);
        let mut out = String::new();
        rows.iter().for_each(|row| columns.plain_line(&mut out, row));
        assert_eq!(out, "a     目录  x\nlong\n      b     y \n");
    }

    #[test]
    fn numbers_are_aligned_to_the_right() {
        let mut columns = Columns::new([false, true].map(|right| Column { width: 0, right }), 1);
        let rows = [row(["a", "9"]), row(["b", "1000"]), row(["c", ""])];
        rows.iter().for_each(|row| columns.widen(row));
        let mut out = String::new();
        rows.iter().for_each(|row| {
            columns.line(&mut out, row, |at, text| if at == 0 { text.into() } else { format!("<{text}>") });
        });
        assert_eq!(out, "a    <9>\nb <1000>\nc\n");
    }

    #[test]
    fn the_widest_columns_are_made_narrower_first() {
        let widths = |list: &[(usize, bool)], total| {
            let mut columns = Columns::new(list.iter().map(|&(width, right)| Column { width, right }), 2);
            columns.shrink(total, 12);
            columns.columns.iter().map(|column| column.width).collect::<Vec<_>>()
        };
        assert_eq!(widths(&[(50, false), (20, false), (5, true)], 200), [50, 20, 5]);
        assert_eq!(widths(&[(50, false), (20, false), (5, true)], 50), [21, 20, 5]);
        assert_eq!(widths(&[(50, false), (20, false), (5, true)], 40), [16, 15, 5]);
        assert_eq!(widths(&[(50, false), (8, false), (30, true)], 10), [12, 8, 30]);
        let columns = Columns::new([Column { width: 4, right: false }], 1).mark("~");
        let mut out = String::new();
        columns.plain_line(&mut out, &row(["abcdef"]));
        assert_eq!(out, "abc~\n");
    }
}
