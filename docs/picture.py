#!/usr/bin/env python3
"""Makes docs/demo.svg, the moving picture of the README, from a real run of the demo.

    cargo build --release && docs/picture.py

Runs the demo in a terminal of its own (tmux), takes what is on the screen twice a second, and
writes the frames into one animated SVG, which every browser plays without a script.
"""
import html
import pathlib
import subprocess
import time

COLUMNS, ROWS, FRAMES, PAUSE = 132, 30, 12, 0.5
HERE = pathlib.Path(__file__).resolve().parent
PROGRAM = HERE.parent / "target" / "release" / "kstate"
SESSION = "kstate-picture"


def tmux(*arguments):
    return subprocess.run(["tmux", *arguments], check=True, capture_output=True, text=True).stdout


def frames():
    tmux("new-session", "-d", "-s", SESSION, "-x", str(COLUMNS), "-y", str(ROWS),
         f"{PROGRAM} demo --seconds {int(FRAMES * PAUSE) + 3}")
    try:
        time.sleep(2)
        for _ in range(FRAMES):
            yield tmux("capture-pane", "-p", "-t", SESSION).split("\n")[:ROWS]
            time.sleep(PAUSE)
    finally:
        # The demo ends by itself and cleans up; only then does the session.
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            alive = subprocess.run(["tmux", "has-session", "-t", SESSION], capture_output=True)
            if alive.returncode:
                return
            time.sleep(0.2)
        tmux("kill-session", "-t", SESSION)


def picture(screens):
    width, line = 8.4, 18
    used = max(i for screen in screens for i, text in enumerate(screen) if text.strip()) + 1
    height = used * line + 24
    seconds = len(screens) * PAUSE
    share = 100 / len(screens)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS * width + 24:.0f} {height}"'
        ' font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14">',
        f"<style>g{{animation:show {seconds}s step-end infinite;visibility:hidden}}"
        f"@keyframes show{{0%{{visibility:visible}}{share:.3f}%{{visibility:hidden}}}}</style>",
        '<rect width="100%" height="100%" rx="8" fill="#16181d"/>',
    ]
    for number, screen in enumerate(screens):
        out.append(f'<g style="animation-delay:{number * PAUSE}s" fill="#d7dae0">')
        for row, text in enumerate(screen[:used]):
            if text.strip():
                y = 12 + (row + 1) * line - 4
                text = html.escape(text.rstrip())
                out.append(f'<text x="12" y="{y}" xml:space="preserve">{text}</text>')
        out.append("</g>")
    out.append("</svg>")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    (HERE / "demo.svg").write_text(picture(list(frames())))
