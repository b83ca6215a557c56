"""The look of the chat page, light and dark: parchment, ink and the red of what is asked, as on the pages that
`document/style.py` dresses. Colours are Gradio's own variables, so that all of its controls follow.
"""

_ROLES = {
    "desk": ("#e9e1cf", "#100e0b"),
    "paper": ("#faf5e9", "#1c1914"),
    "line": ("#dccfb2", "#3b3326"),
    "ink": ("#2a241d", "#e8dfcc"),
    "faint": ("#6d6049", "#a5987f"),
    "rubric": ("#9c2b1d", "#e5836d"),
    "gold": ("#8a6a24", "#c9a45c"),
}
"""Colour -> what it is by day, and by night."""
_USES = {
    "desk": "body_background_fill button_secondary_background_fill_hover checkbox_label_background_fill_hover",
    "paper": "block_background_fill background_fill_primary background_fill_secondary input_background_fill "
    "input_background_fill_focus button_secondary_background_fill checkbox_background_color "
    "block_label_background_fill checkbox_label_background_fill checkbox_label_background_fill_selected",
    "line": "block_border_color border_color_primary input_border_color button_secondary_border_color "
    "checkbox_label_border_color button_secondary_border_color_hover block_label_border_color",
    "ink": "body_text_color button_secondary_text_color button_secondary_text_color_hover checkbox_label_text_color "
    "checkbox_label_text_color_selected",
    "faint": "body_text_color_subdued block_label_text_color block_title_text_color block_info_text_color "
    "input_placeholder_color checkbox_border_color",
    "rubric": "slider_color checkbox_background_color_selected checkbox_border_color_selected",
    "gold": "link_text_color input_border_color_focus border_color_accent",
}
"""Colour -> Gradio's names for where it is used."""

COLOURS = {
    name + ending: colour
    for role, names in _USES.items()
    for name in names.split()
    for ending, colour in zip(("", "_dark"), _ROLES[role], strict=True)
} | {"color_accent": "*slider_color"}
"""What a Gradio theme is set to."""

STYLE = """
.gradio-container {
  --desk: var(--body-background-fill); --paper: var(--block-background-fill); --line: var(--border-color-primary);
  --ink: var(--body-text-color); --faint: var(--body-text-color-subdued); --rubric: var(--color-accent);
  --gold: var(--link-text-color); --tile: #f6eedd;
  max-width: 56rem !important; width: 100%; margin: 0 auto; font-size: 1.0625rem;
}
.gradio-container > main, .gradio-container .contain { width: 100%; }
.gradio-container :focus-visible { outline: 2px solid var(--gold) !important; outline-offset: 2px; }
#masthead { text-align: center; padding: .75rem 0 0; }
#masthead h1 { margin: 0; font-size: 2.1rem; font-weight: 500; letter-spacing: .01em; color: var(--rubric); }
#masthead p { margin: 0; color: var(--faint); font-style: italic; }

#talk {
  flex: 1 1 auto; min-height: 12rem; overflow-y: auto !important; background: var(--paper);
  border: 1px solid var(--line); padding: clamp(1rem, 4vw, 2rem); line-height: 1.6;
}
/* Once something was said, the conversation takes the room of the examples. */
.gradio-container:has(#talk .turn) #talk { height: max(16rem, calc(100vh - 25rem)); }
.gradio-container:has(#talk .turn) #begin { display: none; }
#talk .prose { font-size: 1.125rem; line-height: 1.6; }
#talk, #talk * { color: var(--ink); }
#talk p { margin: 0; white-space: pre-line; overflow-wrap: anywhere; }
#talk .welcome { color: var(--faint); font-style: italic; text-align: center; padding: 4rem 0; }
#talk .turn { display: grid; gap: .1rem 1.25rem; margin: 0 0 1.4rem; }
#talk .turn.user + .turn { margin-top: -.4rem; }
#talk .said { display: flex; flex-direction: column; gap: .9rem; min-width: 0; }
#talk .speaker { color: var(--faint); font-variant-caps: all-small-caps; letter-spacing: .06em; }
#talk .user .said p { color: var(--rubric); font-style: italic; }
#talk .strip { display: grid; gap: .75rem 2rem; min-width: 0; }
@media (min-width: 40rem) {
  #talk .turn { grid-template-columns: 4.25rem 1fr; }
  #talk .strip:has(p):has(figure) { grid-template-columns: 1fr auto; align-items: center; }
}
#talk figure { margin: 0; }
#talk figure img, #talk .canvas {
  display: block; width: 10.5rem; max-width: 100%; padding: .5rem; box-sizing: border-box;
  border: 1px solid var(--line); border-radius: 3px; background: var(--tile);
}
/* White grounds take the colour of the parchment, so that pictures look painted on it. */
#talk figure img { mix-blend-mode: multiply; }
.dark #talk figure img { mix-blend-mode: normal; }
#talk .user figure img { width: 8rem; }
#talk .canvas {
  aspect-ratio: 1; display: flex; flex-direction: column; align-items: center; justify-content: center; gap: .5rem;
  border-style: dashed; background: transparent;
}
#talk .canvas span, #talk .canvas small { color: var(--faint); font-style: italic; }
#talk progress { width: 70%; height: .45rem; appearance: none; border: 0; border-radius: 1rem; overflow: hidden;
  background: var(--line); accent-color: var(--gold); }
#talk progress::-webkit-progress-bar { background: var(--line); }
#talk progress::-webkit-progress-value { background: var(--gold); transition: width .2s; }
#talk progress::-moz-progress-bar { background: var(--gold); }
#talk .waiting { color: var(--faint); animation: limner-waiting 1.2s ease-in-out infinite; }
@keyframes limner-waiting { 50% { opacity: .25; } }
@media (prefers-reduced-motion: reduce) { #talk .waiting, #talk progress::-webkit-progress-value { animation: none;
  transition: none; } }
#talk .note { color: var(--rubric); border-left: 3px solid var(--rubric); padding: .25rem .75rem; font-style: italic; }
#ask textarea { font-size: 1.0625rem; }
#ask textarea:focus-visible { outline: none !important; }
#ask:focus-within { border-color: var(--gold); box-shadow: 0 0 0 1px var(--gold); }
#how { align-items: stretch; }
#how button { font-weight: 500; font-size: 1rem; border: 1px solid var(--line); }
#begin button { background: var(--paper); border-color: var(--line); color: var(--ink); }
.dark #begin img { opacity: .92; }
footer { display: none !important; }
"""
