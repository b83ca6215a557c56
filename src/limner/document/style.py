"""The look of a page: one style sheet, light and dark, for screens of any width and for paper.

After a manuscript: red for what is asked (the rubric), a drop cap, gold rules, and pictures that
stand on the parchment as if painted there. Every colour is a variable, set once per scheme.
"""

STYLE = """\
:root {
  color-scheme: light dark;
  --desk: #e4dbc7; --paper: #faf5e9; --tile: #fdf9ef; --frame: #dccfb2;
  --ink: #2a241d; --faint: #75684f; --rubric: #9c2b1d; --gold: #b8923f; --rule: #dccfb2;
  --shadow: #5a46202e;
  --text: "Iowan Old Style", "Palatino Linotype", Palatino, "Book Antiqua", "URW Palladio L",
    "Noto Serif", Georgia, serif;
}
@media (prefers-color-scheme: dark) {
  :root {
    --desk: #100e0b; --paper: #1c1914; --tile: #e6dbc2; --frame: #0000;
    --ink: #e8dfcc; --faint: #a5987f; --rubric: #e5836d; --gold: #a98a45; --rule: #3b3326;
    --shadow: #000a;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; padding: clamp(0rem, 3vw, 2.5rem) clamp(0rem, 2vw, 2rem);
  background: var(--desk); color: var(--ink);
  font: 1.1875rem/1.6 var(--text); font-variant-numeric: oldstyle-nums;
  font-kerning: normal; text-rendering: optimizeLegibility;
}
main {
  position: relative; max-width: 50rem; margin: 0 auto; background: var(--paper);
  padding: clamp(2.5rem, 7vw, 5rem) clamp(1.5rem, 8vw, 5.5rem);
  border: 1px solid var(--rule); box-shadow: 0 .5rem 2.5rem var(--shadow);
}
main::before {
  content: ""; position: absolute; inset: clamp(.5rem, 1.4vw, 1rem); pointer-events: none;
  border: 1px solid var(--gold); outline: 1px solid var(--gold); outline-offset: -4px; opacity: .55;
}
header { text-align: center; margin-bottom: 3rem; }
h1 {
  margin: 0; font-size: clamp(1.9rem, 6vw, 2.9rem); line-height: 1.15; font-weight: 500;
  letter-spacing: .01em; text-wrap: balance; overflow-wrap: anywhere;
}
header::after, section + section::before {
  content: "\\2766\\FE0E"; display: block; color: var(--rubric); text-align: center;
  font-size: 1.5rem; line-height: 1;
}
header::after { margin-top: 1rem; }
section + section::before { margin: 3.25rem 0 2.25rem; color: var(--gold); }
h2 {
  margin: 0 0 .25rem; color: var(--rubric); font-weight: 500; font-size: 1.5rem; line-height: 1.25;
  text-wrap: balance; overflow-wrap: anywhere;
}
.note { margin: 0; color: var(--faint); font-size: .9rem; font-style: italic; }
h2 + .documents, .note + .documents { margin-top: 1.5rem; }
article + article { margin-top: 2.5rem; }
p { margin: 0; white-space: pre-line; overflow-wrap: anywhere; hanging-punctuation: first; }
p + p, .text + .text { margin-top: .8em; }
p:empty, .blank { display: none; }
.manuscript .assistant p, .page p { text-wrap: pretty; }
.initial::first-letter {
  float: left; margin: .03em .09em 0 0; color: var(--rubric); font-size: 3.5em; line-height: .82;
  font-weight: 500;
}
@supports (initial-letter: 3) or (-webkit-initial-letter: 3) {
  .initial::first-letter {
    -webkit-initial-letter: 3; initial-letter: 3; float: none; margin: 0 .4rem 0 0; font-size: 1em;
    line-height: inherit;
  }
}

/* Words and the picture that follows them: side by side where there is room, sides in turn. */
.said { display: grid; gap: 1.5rem; }
.strip { display: grid; gap: 1.25rem; min-width: 0; }
.pictures { display: flex; flex-wrap: wrap; justify-content: center; gap: 1.25rem; }
.message + .message { margin-top: 1.5rem; }
@media (min-width: 40rem) {
  .manuscript .pair { grid-template-columns: 1fr auto; align-items: center; gap: 2rem; }
  .manuscript .pair:nth-child(even) { grid-template-columns: auto 1fr; }
  .manuscript .pair:nth-child(even) .pictures { order: -1; }
}
figure { margin: 0; max-width: 100%; text-align: center; }
img { display: block; max-width: 100%; height: auto; }
.frame { display: inline-block; max-width: 100%; vertical-align: top; overflow: hidden;
  isolation: isolate;  background: var(--tile); border: 1px solid var(--frame);
  border-radius: 3px; }
.small .frame, .coarse .frame, .missing { width: 11.5rem; padding: .5rem; }
/* White grounds take the colour of the parchment, so that pictures look painted on it. */
.small img, .coarse img { width: 100%; mix-blend-mode: multiply; }
.coarse img { image-rendering: pixelated; }
.large { width: 100%; }
.large .frame { background: none; }
.large img { width: auto; max-height: 34rem; object-fit: contain; }
.missing { display: grid; place-items: center; aspect-ratio: 1; color: var(--faint);
  font-style: italic; border: 1px dashed var(--rule); border-radius: 3px; }
figcaption { margin-top: .4rem; color: var(--faint); font-size: .875rem; font-style: italic;
  line-height: 1.35; max-width: 34rem; margin-inline: auto; overflow-wrap: anywhere; }
.small figcaption, .coarse figcaption { max-width: 11.5rem; }

/* What is asked is rubricated. */
.user { color: var(--rubric); }
.user figcaption { color: var(--faint); }
.system { color: var(--faint); font-size: .95rem; font-style: italic; }
.manuscript .speaker, .plate .speaker { position: absolute; width: 1px; height: 1px;
  overflow: hidden; clip-path: inset(50%); }
.manuscript .user, .plate .user { font-style: italic; }
.manuscript .user { font-size: 1.05em; }
.manuscript .user p::before { content: "\\00B6\\00A0"; font-style: normal; opacity: .7; }
.manuscript .user p + p::before { content: none; }

/* A conversation: who speaks stands in the margin. */
.talk .message { display: grid; gap: .25rem 1.25rem; }
.talk .said { gap: 1rem; }
.talk .pictures { justify-content: flex-start; }
.talk .speaker { color: var(--faint); font-size: 1.05rem; font-variant-caps: all-small-caps;
  letter-spacing: .06em; line-height: 1.9rem; }
.talk .assistant + .user { border-top: 1px solid var(--rule); padding-top: 1.5rem; }
@media (min-width: 40rem) { .talk .message { grid-template-columns: 4.25rem 1fr; } }

/* Plates: short documents side by side. */
[data-layout="plates"] .documents { display: flex; flex-wrap: wrap; justify-content: center;
  gap: 1.75rem 1.25rem; }
.plate { flex: 0 0 calc((100% - 2.5rem) / 3); min-width: 0; }
.plate + .plate { margin: 0; }
.plate .message + .message { margin-top: .6rem; }
.plate .said, .plate .strip { gap: .6rem; }
.plate .pictures { order: -1; justify-content: flex-start; }
.plate figure, .plate .frame { width: 100%; }
.plate { font-size: 1.0625rem; line-height: 1.45; }
@media (max-width: 40rem) {
  body { font-size: 1.125rem; }
  .plate { flex-basis: calc(50% - .625rem); }
}
footer { margin-top: 3.5rem; padding-top: 1.25rem; border-top: 1px solid var(--rule);
  text-align: center; color: var(--faint); font-size: .875rem; font-style: italic;
  white-space: pre-line; overflow-wrap: anywhere; }
@media print {
  body { padding: 0; background: none; font-size: 11pt; }
  main { max-width: none; border: 0; box-shadow: none; }
  figure, .pair, .plate { break-inside: avoid; }
}
"""
