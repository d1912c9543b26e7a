"""The questions of the first start: language, keyboard, user.

Every language is offered in its own words. The answers are put into force by
the script "apply" beside this file; the window stays until that has worked.
"""

import os
import pwd
import re
import subprocess
import threading
import unicodedata

import gi

gi.require_version("Gtk", "3.0")
gi.require_version("Gdk", "3.0")
from gi.repository import Gdk, GLib, Gtk, Pango  # noqa: E402

from words import CYRILLIC, KEYBOARDS, LANGUAGES, RIGHT_TO_LEFT, WORDS, ZONES  # noqa: E402

APPLY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "apply")

CSS = b"""
* { font-family: "Noto Sans", "Noto Sans Arabic", sans-serif; font-size: 16px; }
.sky { background-image: linear-gradient(to bottom, #1b3a54, #2f6d80); }
.card { background: #ffffff; border-radius: 14px; padding: 30px 40px; }
.hello { color: #ffffff; font-size: 27px; font-weight: 600; }
.title { color: #17324a; font-size: 24px; font-weight: 600; }
.text { color: #4a5b69; }
.small { color: #4a5b69; font-size: 14px; }
.wrong { color: #b3261e; font-size: 14px; font-weight: 600; }
.field { color: #17324a; font-size: 14px; font-weight: 600; }
entry { color: #10212f; background: #ffffff; border: 1px solid #8b9aa6; border-radius: 7px; padding: 8px 10px; box-shadow: none; }
entry:focus { border-color: #1f6f8b; box-shadow: 0 0 0 2px rgba(31, 111, 139, .35); }
button { color: #17324a; background: #ffffff; border: 1px solid #8b9aa6; border-radius: 8px; padding: 9px 20px;
  box-shadow: none; text-shadow: none; }
button:hover { background: #eef4f7; }
button:focus { border-color: #1f6f8b; box-shadow: 0 0 0 2px rgba(31, 111, 139, .35); }
button.go { color: #ffffff; background: #1f6f8b; border-color: #1f6f8b; font-weight: 600; }
button.go:hover { background: #195b72; }
button.language { padding: 10px 24px; min-height: 34px; }
button.language label { font-size: 21px; }
list, list row { background: #ffffff; color: #17324a; }
list { border-radius: 7px; }
scrolledwindow { border: 1px solid #c3ccd3; border-radius: 7px; }
list row { padding: 8px 14px; }
list row:selected { background: #1f6f8b; color: #ffffff; }
list row:selected label { color: #ffffff; }
checkbutton, checkbutton label { color: #17324a; font-size: 14px; border: none; box-shadow: none; background: none; }
.dot { color: rgba(255,255,255,.35); font-size: 13px; }
.dot.now { color: #ffffff; }
"""


def login_from(name):
    """Proposes a log-in name: the first word of a name in plain letters."""
    out = ""
    for c in name.strip().lower():
        c = CYRILLIC.get(c, c)
        out += "".join(d for d in unicodedata.normalize("NFKD", c) if not unicodedata.combining(d))
    out = re.sub(r"[^a-z0-9]+", " ", out.replace("ß", "ss").replace("ø", "o").replace("ł", "l")).split()
    out = re.sub(r"^[0-9]+", "", out[0])[:24] if out else ""
    return out or ("user" if name.strip() else "")


def label(text, style, wrap=True, align=0.0):
    w = Gtk.Label(label=text, xalign=align, wrap=wrap)
    w.set_line_wrap_mode(Pango.WrapMode.WORD)
    w.set_max_width_chars(48)
    w.get_style_context().add_class(style)
    return w


def button(text, action, style=None):
    w = Gtk.Button(label=text)
    w.connect("clicked", lambda _: action())
    if style:
        w.get_style_context().add_class(style)
    return w


class Wizard(Gtk.Window):
    def __init__(self):
        super().__init__(title="Refurb")
        self.lang = None
        self.keyboard = None
        self.zone = None
        self.answers = {"name": "", "login": "", "password": ""}
        screen = Gdk.Display.get_default().get_default_screen()
        monitor = Gdk.Display.get_default().get_monitor(0).get_geometry()
        provider = Gtk.CssProvider()
        provider.load_from_data(CSS)
        Gtk.StyleContext.add_provider_for_screen(screen, provider, Gtk.STYLE_PROVIDER_PRIORITY_USER)
        self.set_decorated(False)
        self.connect("delete-event", lambda *_: True)  # there is nothing behind it
        self.get_style_context().add_class("sky")
        self.outer = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=22, halign=Gtk.Align.CENTER, valign=Gtk.Align.CENTER)
        self.add(self.outer)
        self.set_default_size(monitor.width, monitor.height)
        self.fullscreen()
        self.page(self.languages, 0)

    def w(self, key):
        return WORDS[self.lang][key]

    def page(self, build, step):
        """Replaces what is shown by another step."""
        for child in self.outer.get_children():
            self.outer.remove(child)
            child.destroy()
        right = self.lang in RIGHT_TO_LEFT
        Gtk.Widget.set_default_direction(Gtk.TextDirection.RTL if right else Gtk.TextDirection.LTR)
        if step == 0:
            self.outer.pack_start(label("Bonjour · Hello · Guten Tag · مرحبًا · Вітаємо", "hello", wrap=False, align=0.5), False, False, 0)
        card = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=14)
        card.get_style_context().add_class("card")
        card.set_size_request(600, -1)
        self.outer.pack_start(card, False, False, 0)
        dots = Gtk.Box(spacing=10, halign=Gtk.Align.CENTER)
        for i in range(3):
            dot = label("●", "dot")
            if i == step:
                dot.get_style_context().add_class("now")
            dots.pack_start(dot, False, False, 0)
        self.outer.pack_start(dots, False, False, 0)
        first = build(card)
        self.show_all()
        if first:
            first.grab_focus()

    def foot(self, card, back, forward, text, style="go"):
        row = Gtk.Box(spacing=12, margin_top=8)
        row.pack_start(button(self.w("back"), back), False, False, 0)
        go = button(text, forward, style)
        row.pack_end(go, False, False, 0)
        card.pack_end(row, False, False, 0)
        return go

    # 1: language

    def languages(self, card):
        first = None
        for code, (name, _, _, _) in LANGUAGES.items():
            b = button(name, lambda c=code: self.take_language(c), "language")
            card.pack_start(b, False, False, 0)
            first = first or b
        return first

    def take_language(self, code):
        if code != self.lang:
            _, _, layout, self.zone = LANGUAGES[code]
            self.keyboard = next(k for k in KEYBOARDS if k[0] == layout)
        self.lang = code
        self.page(self.keyboards, 1)

    # 2: keyboard and time

    def keyboards(self, card):
        card.pack_start(label(self.w("keyboard"), "title"), False, False, 0)
        card.pack_start(label(self.w("keyboard-text"), "text"), False, False, 0)
        rows = Gtk.ListBox(activate_on_single_click=False)
        scroll = Gtk.ScrolledWindow(hscrollbar_policy=Gtk.PolicyType.NEVER, min_content_height=214)
        scroll.add(rows)
        card.pack_start(scroll, True, True, 0)
        hint = label("", "small")
        for k in KEYBOARDS:
            row = Gtk.ListBoxRow()
            row.keyboard = k
            row.add(Gtk.Label(label=k[2], xalign=0.0))
            rows.add(row)
            if k == self.keyboard:
                GLib.idle_add(lambda r=row: (rows.select_row(r), r.grab_focus()) and False)

        def selected(_, row):
            if row is None:
                return
            self.keyboard = row.keyboard
            layout, variant, _ = row.keyboard
            # At once, so that it can be tried and the name typed with it.
            subprocess.run(["setxkbmap", "-layout", layout, "-variant", variant,
                            "-option", "", "-option", "grp:alt_shift_toggle"], check=False)
            hint.set_text(self.w("switch") if "," in layout else "")

        rows.connect("row-selected", selected)
        attempt = Gtk.Entry(placeholder_text=self.w("try"))
        card.pack_start(attempt, False, False, 0)

        def leave(_, event):  # a list takes Tab for the way to its next row
            if event.keyval == Gdk.KEY_Tab:
                attempt.grab_focus()
                return True
            return False

        rows.connect("key-press-event", leave)
        rows.connect("row-activated", lambda *_: self.page(self.user, 2))
        card.pack_start(hint, False, False, 0)
        line = Gtk.Box(spacing=14)
        line.pack_start(label(self.w("zone"), "field"), False, False, 0)
        zones = Gtk.ComboBoxText()
        for z in ZONES:
            zones.append(z, z.split("/")[1].replace("_", " "))
        zones.set_active_id(self.zone)
        zones.connect("changed", lambda c: setattr(self, "zone", c.get_active_id()))
        line.pack_end(zones, False, False, 0)
        card.pack_start(line, False, False, 0)
        self.foot(card, lambda: self.page(self.languages, 0), lambda: self.page(self.user, 2), self.w("next"))

    # 3: the user

    def user(self, card):
        card.pack_start(label(self.w("you"), "title"), False, False, 0)
        card.pack_start(label(self.w("you-text"), "text"), False, False, 0)
        grid = Gtk.Grid(column_spacing=16, row_spacing=6, column_homogeneous=True)
        card.pack_start(grid, False, False, 0)
        entries = {}
        for i, key in enumerate(("name", "login", "password", "again")):
            e = Gtk.Entry(activates_default=True, max_length=64)
            if key in ("password", "again"):
                e.set_visibility(False)
            entries[key] = e
            x, y = i % 2, i // 2 * 2
            grid.attach(label(self.w(key), "field"), x, y, 1, 1)
            grid.attach(e, x, y + 1, 1, 1)
        name, login = entries["name"], entries["login"]
        name.set_text(self.answers["name"])
        login.set_text(self.answers["login"])
        own = {"login": bool(self.answers["login"])}  # typed by hand: no proposal any more

        def proposed(_):
            if not own["login"]:
                login.set_text(login_from(name.get_text()))

        name.connect("changed", proposed)
        login.connect("key-press-event", lambda *_: own.update(login=True))
        show = Gtk.CheckButton(label=self.w("show"))
        show.connect("toggled", lambda b: [entries[k].set_visibility(b.get_active()) for k in ("password", "again")])
        card.pack_start(show, False, False, 0)
        card.pack_start(label(self.w("optional"), "small"), False, False, 0)
        wrong = label("", "wrong")
        card.pack_start(wrong, False, False, 0)

        def forward():
            problem = self.check({k: e.get_text() for k, e in entries.items()})
            if problem:
                wrong.set_text(self.w(problem))
                return
            self.page(self.working, 2)

        def back():
            self.answers.update(name=name.get_text(), login=login.get_text())
            self.page(self.keyboards, 1)

        go = self.foot(card, back, forward, self.w("start"))
        go.set_can_default(True)
        go.grab_default()
        return name

    def check(self, given):
        """Keeps the answers, or says what is wrong with them."""
        name = given["name"].strip().replace(":", " ").replace(",", " ")
        if not name or any(unicodedata.category(c) == "Cc" for c in name):
            return "bad-name"
        if not re.fullmatch(r"[a-z][a-z0-9]{0,23}", given["login"]):
            return "bad-login"
        try:
            if pwd.getpwnam(given["login"]).pw_uid < 1000:
                return "taken"
        except KeyError:
            pass
        if given["password"] != given["again"]:
            return "differ"
        self.answers = {"name": name, "login": given["login"], "password": given["password"]}
        return None

    def working(self, card):
        card.pack_start(label(self.w("working"), "title", align=0.5), False, False, 20)
        spinner = Gtk.Spinner()
        spinner.set_size_request(48, 48)
        spinner.start()
        card.pack_start(spinner, False, False, 20)
        threading.Thread(target=self.apply, daemon=True).start()

    def apply(self):
        layout, variant, _ = self.keyboard
        env = dict(os.environ, REFURB_LOCALE=LANGUAGES[self.lang][1], REFURB_LAYOUT=layout, REFURB_VARIANT=variant,
                   REFURB_ZONE=self.zone, REFURB_LOGIN=self.answers["login"], REFURB_NAME=self.answers["name"])
        done = subprocess.run([APPLY], input=self.answers["password"] + "\n", text=True, env=env, check=False)
        GLib.idle_add(Gtk.main_quit if done.returncode == 0 else self.again)

    def again(self):
        self.page(self.user, 2)
        box = self.outer.get_children()[0]
        box.pack_start(label(self.w("failed"), "wrong"), False, False, 0)
        self.show_all()


if __name__ == "__main__":
    Wizard()
    Gtk.main()
