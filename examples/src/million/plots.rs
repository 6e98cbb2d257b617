//! Line plots as SVG text inside a page: no fonts, no scripts, no other file.
//!
//! Axes and labels have the colour `currentColor`, which is the page's light or dark text colour.

use std::error::Error;

use plotters::prelude::*;
use plotters::style::RGBAColor;

/// The canvas, in SVG units. It is narrow, so that labels stay readable on a phone.
const SIZE: (u32, u32) = (480, 220);

/// The placeholder for the page's text colour until the SVG is finished. No series may use it.
const INK: RGBColor = RGBColor(1, 2, 3);
const INK_IN_SVG: &str = "\"#010203\"";

/// The colours of the first and the second line, readable on light and on dark.
pub const COLORS: [(u8, u8, u8); 2] = [(47, 129, 247), (217, 115, 13)];

/// One line, as (seconds, value).
pub type Points = Vec<(f64, f64)>;

/// Draws up to two lines over the time axis from 0 to `seconds`. The other axis begins at 0 too. The first
/// line is broad, so that it shows below a second line that covers it.
///
/// # Errors
/// If the plotting library cannot draw. It always can draw onto text.
pub fn lines(series: &[Points], seconds: f64) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    draw(&mut svg, series, seconds)?;
    let size = format!(" width=\"{}\" height=\"{}\"", SIZE.0, SIZE.1);
    // Without a size, the SVG takes the page's width, and the viewBox keeps its shape.
    Ok(svg.replacen(&size, "", 1).replace(INK_IN_SVG, "\"currentColor\""))
}

fn draw(svg: &mut String, series: &[Points], seconds: f64) -> Result<(), Box<dyn Error>> {
    let values = series.iter().flatten().map(|point| point.1);
    let highest = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
    let x_end = above_zero(seconds);
    let y_end = above_zero(highest * 1.05);
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin(6)
        .margin_right(14)
        .x_label_area_size(24)
        .y_label_area_size(46)
        .build_cartesian_2d(0.0..x_end, 0.0..y_end)?;
    let label = ("sans-serif", 14).into_font().color(&INK);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(RGBAColor(0, 0, 0, 0.0))
        .bold_line_style(INK.mix(0.15))
        .axis_style(INK.mix(0.5))
        .label_style(label)
        .x_labels(7)
        .y_labels(5)
        .x_label_formatter(&|time| format!("{} s", short(*time)))
        .y_label_formatter(&|value| short(*value))
        .draw()?;
    let widths = if series.len() > 1 { [5, 2] } else { [2, 2] };
    for ((points, (red, green, blue)), width) in series.iter().zip(COLORS).zip(widths) {
        let finite =
            points.iter().copied().filter(|point| point.0.is_finite() && point.1.is_finite());
        let style = RGBColor(red, green, blue).stroke_width(width);
        chart.draw_series(LineSeries::new(finite, style))?;
    }
    area.present()?;
    Ok(())
}

/// An axis needs a length above zero, even if every value is zero.
fn above_zero(value: f64) -> f64 {
    if value > 0.0 { value } else { 1.0 }
}

/// A number for an axis: three digits at most, and k, M or G.
fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        v if v >= 1e9 => (value / 1e9, "G"),
        v if v >= 1e6 => (value / 1e6, "M"),
        v if v >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = usize::from(value.abs() < 10.0 && value.fract().abs() > 0.05);
    format!("{value:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plot_is_svg_in_the_colours_of_the_page() {
        let svg =
            lines(&[vec![(0.0, 0.0), (1.0, 1e6)], vec![(0.0, 5.0), (1.0, 6.0)]], 1.0).unwrap();
        assert!(svg.starts_with("<svg "), "{svg}");
        assert!(svg.contains("viewBox=\"0 0 480 220\""));
        assert!(!svg.contains("width=\"480\""));
        assert!(svg.contains("currentColor") && !svg.contains("#010203"));
        assert!(svg.matches("<polyline").count() >= 2);
        assert!(svg.contains("#2F81F7") && svg.contains("#D9730D"));
        assert!(svg.contains("500k"), "{svg}");
    }

    #[test]
    fn nothing_measured_is_an_empty_plot() {
        for series in [vec![], vec![vec![]], vec![vec![(0.0, 0.0)]], vec![vec![(0.0, f64::NAN)]]] {
            assert!(lines(&series, 0.0).unwrap().starts_with("<svg "));
        }
    }

    #[test]
    fn axis_numbers_are_short() {
        let expected =
            [(0.0, "0"), (2.5, "2.5"), (40.0, "40"), (2e5, "200k"), (1.2e6, "1.2M"), (8e9, "8G")];
        for (value, text) in expected {
            assert_eq!(short(value), text);
        }
    }
}
