//! The picture, drawn by the inferno crate. What that has no words for is put below it: what colours mean, and notes.

use std::{
    collections::HashMap,
    io::{self, Write},
};

use inferno::flamegraph::{
    self, Direction, TextTruncateDirection,
    color::{BackgroundColor, Color, PaletteMap, StrokeColor},
};

use super::{Options, folded, text};
use crate::model::profile::{Frame, Origin, Profile, State};

/// The longest name that is written into a picture: each frame bears its own.
const NAME_CHARS: usize = 400;
/// As wide as a line of text below the picture may be: at 1,200 pixels and 12 pixels a line of monospace.
const LINE_CHARS: usize = 165;
/// Notes that are shown; more are counted.
const NOTES: usize = 8;
const LINE_PIXELS: usize = 18;
const ROOT: Color = Color { r: 190, g: 188, b: 182 };
const PAPER: Color = Color { r: 250, g: 250, b: 248 };

/// Writes a picture.
///
/// # Errors
/// The writer's.
pub fn write(profile: &Profile, options: &Options<'_>, to: &mut dyn Write) -> io::Result<()> {
    if text::is_empty(profile) {
        return empty(profile, to);
    }
    let named = |profile: &Profile, seen: &mut PaletteMap, classes: &mut Vec<Class>| {
        let colours = std::cell::RefCell::new((seen, classes));
        folded::stacks(profile, |frame, state| {
            let class = Class::of(frame, state);
            let name = class.name(frame);
            let (seen, classes) = &mut *colours.borrow_mut();
            seen.insert(&name, class.shade(&name));
            if !classes.contains(&class) {
                classes.push(class);
            }
            name
        })
    };
    let (mut colours, mut classes) = (PaletteMap::default(), Vec::new());
    // The frame that inferno puts under all others has no name.
    for name in ["", folded::ON_CPU, folded::OFF_CPU] {
        colours.insert(name, ROOT);
    }
    let stacks = named(profile, &mut colours, &mut classes);
    let lines: Vec<String> = match options.baseline {
        None => stacks.iter().map(|(stack, ns)| format!("{stack} {ns}")).collect(),
        Some(baseline) => {
            let before = named(baseline, &mut colours, &mut classes);
            let compared = folded::compared(&before, &stacks);
            compared.into_iter().map(|(stack, (before, after))| format!("{stack} {before} {after}")).collect()
        }
    };

    let (on, off) = text::totals_ns(profile);
    // Whole numbers are all that inferno shows.
    let (unit, factor) = if on.saturating_add(off) >= 1_000_000_000 { ("ms", 1e-6) } else { ("µs", 1e-3) };
    let mut settings = flamegraph::Options::default();
    settings.title = text::cut(&text::title(profile), 100).into_owned();
    settings.subtitle = Some(text::facts(profile));
    settings.count_name = unit.to_owned();
    settings.factor = factor;
    settings.bgcolors = Some(BackgroundColor::Flat(PAPER));
    settings.text_truncate_direction = TextTruncateDirection::Right;
    settings.reverse_stack_order = options.reversed;
    settings.direction = if options.icicle { Direction::Inverted } else { Direction::Straight };
    settings.palette_map = Some(&mut colours);
    if options.baseline.is_some() {
        // What has not changed is white.
        settings.stroke_color = StrokeColor::Color(Color { r: 205, g: 203, b: 198 });
    }

    let mut picture = Vec::new();
    flamegraph::from_lines(&mut settings, lines.iter().map(String::as_str), &mut picture)?;
    let picture = String::from_utf8(picture).map_err(io::Error::other)?;
    let mut below = vec![match options.baseline {
        None => legend(&mut classes),
        Some(baseline) => compared_with(baseline),
    }];
    below.extend(notes(profile).iter().map(|note| escaped(note)));
    to.write_all(extended(&picture, &below).as_bytes())
}

/// What a frame is for its colour.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Class {
    state: State,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    User,
    Inlined,
    Kernel,
    Interpreted,
    Jit,
    Note,
}

impl Class {
    fn of(frame: &Frame, state: State) -> Self {
        let what = match frame.origin {
            Origin::Kernel => What::Kernel,
            Origin::Interpreted => What::Interpreted,
            Origin::Jit => What::Jit,
            Origin::Note => What::Note,
            Origin::User if frame.inlined => What::Inlined,
            Origin::User => What::User,
        };
        Self { state, what }
    }

    /// The frame's name, another one for each class, as inferno finds colours by name. What makes it another is not
    /// seen: four marks that inferno takes off, and characters without width.
    fn name(self, frame: &Frame) -> String {
        let name = folded::name(&frame.function);
        let name = text::cut(&name, NAME_CHARS);
        let mark = match self.what {
            What::User | What::Note => "",
            What::Inlined => "_[i]",
            What::Kernel => "_[k]",
            What::Interpreted => "_[w]",
            What::Jit => "_[j]",
        };
        let wait = if self.state == State::OffCpu { "\u{2060}" } else { "" };
        let note = if self.what == What::Note { "\u{200b}" } else { "" };
        format!("{name}{wait}{note}{mark}")
    }

    /// Its colour, a little different for each name so that neighbours can be told apart.
    fn shade(self, name: &str) -> Color {
        let (r, g, b) = match (self.state, self.what) {
            (State::OnCpu, What::User) => (242, 176, 76),
            (State::OnCpu, What::Inlined) => (243, 214, 130),
            (State::OnCpu, What::Kernel) => (232, 122, 80),
            (State::OnCpu, What::Interpreted) => (146, 190, 96),
            (State::OnCpu, What::Jit) => (226, 136, 164),
            (State::OffCpu, What::User) => (112, 170, 228),
            (State::OffCpu, What::Inlined) => (168, 206, 238),
            (State::OffCpu, What::Kernel) => (122, 134, 214),
            (State::OffCpu, What::Interpreted) => (98, 186, 178),
            (State::OffCpu, What::Jit) => (178, 150, 218),
            (_, What::Note) => (ROOT.r, ROOT.g, ROOT.b),
        };
        let hash = name.bytes().fold(0u8, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte));
        let near = |channel: u8| channel.saturating_sub(10).saturating_add(hash % 21);
        Color { r: near(r), g: near(g), b: near(b) }
    }

    fn told(self) -> &'static str {
        match (self.what, self.state) {
            (What::User, State::OnCpu) => "user code",
            (What::Inlined, State::OnCpu) => "inlined",
            (What::Kernel, State::OnCpu) => "kernel",
            (What::Interpreted, State::OnCpu) => "interpreted",
            (What::Jit, State::OnCpu) => "JIT",
            (What::User, State::OffCpu) => "user code, waiting",
            (What::Inlined, State::OffCpu) => "inlined, waiting",
            (What::Kernel, State::OffCpu) => "kernel, waiting",
            (What::Interpreted, State::OffCpu) => "interpreted, waiting",
            (What::Jit, State::OffCpu) => "JIT, waiting",
            (What::Note, _) => "no code",
        }
    }
}

fn legend(classes: &mut [Class]) -> String {
    classes.sort_by_key(|class| (class.state == State::OffCpu, class.what));
    let mut told: HashMap<&str, ()> = HashMap::new();
    let fresh = classes.iter().filter(|class| told.insert(class.told(), ()).is_none());
    fresh.map(|class| entry(class.shade(""), class.told())).collect()
}

fn compared_with(baseline: &Profile) -> String {
    let what = text::cut(&format!("{}, {}", text::title(baseline), text::facts(baseline)), 110).into_owned();
    let (more, less) = (Color { r: 255, g: 90, b: 90 }, Color { r: 90, g: 90, b: 255 });
    entry(more, "more, ") + &entry(less, "less than in") + &format!("<tspan>{}</tspan>", escaped(&what))
}

fn entry(Color { r, g, b }: Color, what: &str) -> String {
    format!("<tspan fill=\"rgb({r},{g},{b})\">■</tspan><tspan> {what}  </tspan>")
}

fn notes(profile: &Profile) -> Vec<String> {
    let mut notes: Vec<String> =
        profile.notes.iter().take(NOTES).map(|note| text::cut(&text::shown(note), LINE_CHARS).into_owned()).collect();
    if let Some(more) = profile.notes.len().checked_sub(NOTES).filter(|more| *more > 0) {
        notes.push(format!("and {more} more notes"));
    }
    notes
}

/// The picture with lines below it. Everything in it has its place from the top, so that room at the bottom moves
/// nothing.
fn extended(picture: &str, below: &[String]) -> String {
    let height = picture.split_once("viewBox=\"0 0 1200 ").and_then(|(_, rest)| rest.split_once('"'));
    let Some((height, body)) =
        height.and_then(|(height, _)| height.parse::<usize>().ok()).zip(picture.strip_suffix("</svg>"))
    else {
        return picture.to_owned();
    };
    let more = below.len() * LINE_PIXELS + LINE_PIXELS / 2;
    let mut extended = body
        .replacen(&format!("viewBox=\"0 0 1200 {height}\""), &format!("viewBox=\"0 0 1200 {}\"", height + more), 1)
        // Of the picture and of its background.
        .replacen(&format!("height=\"{height}\""), &format!("height=\"{}\"", height + more), 2);
    for (at, line) in below.iter().enumerate() {
        let y = height + at * LINE_PIXELS + LINE_PIXELS / 2;
        extended += &format!("<text x=\"10\" y=\"{y}\" xml:space=\"preserve\" fill=\"rgb(70,70,70)\">{line}</text>");
    }
    extended + "</svg>"
}

/// A picture that says why there is none.
fn empty(profile: &Profile, to: &mut dyn Write) -> io::Result<()> {
    let why = text::why_empty(profile);
    let height = 110 + why.len() * LINE_PIXELS;
    let Color { r, g, b } = PAPER;
    writeln!(
        to,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" version=\"1.1\" \
         width=\"1200\" height=\"{height}\" viewBox=\"0 0 1200 {height}\" font-family=\"monospace\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"rgb({r},{g},{b})\"/>\n\
         <text x=\"600\" y=\"24\" text-anchor=\"middle\" font-size=\"17\">{}</text>\n\
         <text x=\"600\" y=\"48\" text-anchor=\"middle\">{}</text>\n\
         <text x=\"10\" y=\"84\" font-weight=\"bold\">This profile is empty:</text>",
        escaped(&text::cut(&text::title(profile), 100)),
        escaped(&text::facts(profile)),
    )?;
    for (at, line) in why.iter().enumerate() {
        let y = 84 + (at + 1) * LINE_PIXELS;
        writeln!(to, "<text x=\"10\" y=\"{y}\">{}</text>", escaped(&text::cut(line, LINE_CHARS)))?;
    }
    writeln!(to, "</svg>")
}

/// Text as it stands in XML and HTML.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            _ => escaped.push(char),
        }
    }
    escaped
}
