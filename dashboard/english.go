package dashboard

import (
	"regexp"
	"strconv"
	"strings"
)

// fixed are sentences that the appliance writes in English and that mean the
// same every time, so that they can be said in any language.
var fixed = map[string]string{
	"its spare memory is nearly used up":                                           "health.why.spareless",
	"it has had so many errors that it can't be relied upon":                       "health.why.errors",
	"it can only be read any more":                                                 "health.why.readonly",
	"its protection against power cuts is broken":                                  "health.why.power",
	"it is too hot or too cold":                                                    "health.why.heat",
	"a part of its memory is unreliable":                                           "health.why.region",
	"it gives a warning of a kind that isn't known here":                           "health.why.other",
	"it says itself that it fails":                                                 "health.why.says",
	"its last self-test failed":                                                    "health.why.selftest",
	"it has lost data before":                                                      "health.why.lost",
	"it has outlived what its maker promises":                                      "health.why.outlived",
	"No lot is open":                                                               "why.lot",
	"No image is chosen":                                                           "why.image",
	"This disk holds something":                                                    "why.holds",
	"The disk is blank and waits for approval":                                     "why.blank",
	"The PC restarted before its disk was finished":                                "why.restart",
	"The approval has expired after ten minutes":                                   "why.expired",
	"The approved disk is no longer there":                                         "why.diskgone",
	"The approved disk now holds something else":                                   "why.diskchanged",
	"Cancelled on the dashboard":                                                   "why.cancelled",
	"No disk was found in this PC":                                                 "why.nodisk",
	"The PC answers again":                                                         "why.answers",
	"Put a disk in, or check its cable, and ask for imaging again":                 "next.nodisk",
	"Put an internal disk in and ask for imaging again":                            "next.internal",
	"To image this PC after all, ask for it on the device page":                    "next.again",
	"To image this PC again, ask for it on the device page":                        "next.again",
	"Ask for imaging again; if it happens twice, put the PC aside":                 "next.twice",
	"Look what happened and approve the disk on the device page":                   "next.approve",
	"Approve it on the device page":                                                "next.approve",
	"What was typed doesn't match the disk":                                        "why.typed",
	"Type the last six characters of the disk's serial number":                     "ask.type",
	"The PC doesn't answer":                                                        "why.lost",
	"Switch it on and wait until it shows its number":                              "next.on",
	"This job doesn't wait for an approval":                                        "approve.old",
	"Look at the device page again":                                                "approve.old.next",
	"Close it first":                                                               "next.close",
	"This PC is being imaged":                                                      "why.working",
	"This PC is being erased":                                                      "why.erasing",
	"This PC is on":                                                                "why.on",
	"This PC can't be switched on over the network":                                "wake.not",
	"Press its button":                                                             "next.button",
	"It was switched on a moment ago":                                              "why.woken",
	"Give it half a minute to start":                                               "next.woken",
	"No PC of this lot waits to be switched on":                                    "why.nonewait",
	"Choose what it is to do at its next start first":                              "next.choosestart",
	"A job of this PC waits or runs":                                               "why.jobruns",
	"The PC is not waiting":                                                        "why.notwaiting",
	"This PC starts the agent as it is":                                            "why.startsanyway",
	"Nothing is asked for at the next start":                                       "why.nothingasked",
	"It was asked for together with the erasing":                                   "why.together",
	"This PC came back since its disk was written":                                 "why.cameback",
	"The disk that was imaged is no longer in this PC":                             "why.imagedgone",
	"PCs were turned away and nobody says why":                                     "why.refused",
	"The disk was erased with exceptions":                                          "why.exceptions",
	"The disk was not erased":                                                      "why.noterased",
	"Nobody knows whether the disk is erased":                                      "why.eraseunknown",
	"The PC restarted while its disk was being erased: nobody knows what is on it": "why.erasecut",
	"Erase it again; if it happens twice, take the disk out and destroy it":        "next.erasetwice",
	"Erase it, or take it out and start the PC from the network once":              "next.eraseortake",
	"Ask for erasing again on the device page":                                     "next.eraseagain",
	"Ask for it to wait, start it, and come back when it shows its number":         "next.askwait",
	"Approve it again on the device page":                                          "next.approve",
	"Choose one of the disks on the device page":                                   "next.several",
	"erase it again; if it happens again, take the disk out and destroy it":        "next.erasetwice",
	"leave it on for a while, then erase it again; if it happens again, take the disk out and destroy it": "next.eraselater",
	"a coordinator decides whether that is enough or the disk is destroyed":                               "next.exceptions",
	"erase it again: nobody knows what is on the disk":                                                    "next.eraseunknown",
	"ask for erasing again on the dashboard: nobody knows what is on the disk":                            "next.eraseunknown",
	"start this PC again from the network":                                                                "next.start",
	"Put another disk in":                                                                                 "next.otherdisk",
	"Wait until it is done, or cancel it":                                                                 "next.wait",
	"This step needs a reason":                                                                            "why.reason",
	"Say why in a few words":                                                                              "next.reason",
	"The disk of this PC has not been written and read back":                                              "why.unproven",
	"Image it first": "next.install",
	"what was read back from the disk is not what was written to it": "why.lies",
	"the disk failed": "why.diskfailed",
	"the disk isn't as large as it says, or doesn't keep what is written to it":         "why.fake",
	"the disk's own self-test failed":                                                   "why.selftest",
	"the image on the appliance is damaged":                                             "why.imagebad",
	"the image on the appliance is damaged, or this PC's memory":                        "why.imageormemory",
	"look at the network cable, the switch and the appliance, then start this PC again": "next.cable",
	"It is not known whether this PC has a disk":                                        "why.diskhidden",
	"This PC has no disk that may be written":                                           "why.nowritable",
	"put another disk in":                                                               "next.otherdisk.again",
	"put another disk in: this one can't be trusted":                                    "next.untrusted",
	"check the image on the dashboard, or import it again":                              "next.reimport",
	"if other PCs get this image, test the memory of this one; otherwise check the image on the dashboard, or import it again": "next.memoryorimage",
	"Put another disk in, or choose another image, and ask for imaging again":                                                  "next.largerdisk",
	"In the firmware setup set the controller to AHCI and ask for imaging again":                                               "next.ahci",
	"Put it back and start this PC from the network once, or image it again":                                                   "next.putbackstart",
	"Image it again": "next.installagain",
	"Under which of its numbers this PC was seen last is not known, nor what is in it now":    "why.unsure",
	"Start this PC from the network once":                                                     "next.startonce",
	"One of them has left the house and the other is here: one PC can't be in two places":     "why.merge.away",
	"A job waits or runs under both numbers":                                                  "why.merge.both",
	"Both have left the house: that makes two PCs":                                            "why.merge.gone",
	"The number that would go was worked on after the job under the one that stays had begun": "why.merge.later",
	"If one of them came back or was never there, move it first":                              "next.merge.back",
	"Cancel that job first": "next.merge.cancel",
	"Keep that number instead, wait until the job is done, or cancel it": "next.merge.keep",
	"Keep the other number, or move this one to received first":          "next.merge.other",
	"Wait until one of them is done, or cancel it":                       "next.merge.wait",
}

// counted are sentences with one number in them, which stands here as #, or one
// that is written out, and with a disk's path, @.
var counted = map[string]string{
	"only # % of its spare memory is left":                                                              "health.why.spare",
	"# % of its life is used":                                                                           "health.why.life",
	"# sectors can't be read":                                                                           "health.why.unreadable",
	"# sectors had to be replaced":                                                                      "health.why.replaced",
	"A job waits or runs under number #":                                                                "why.merge.job",
	"Number # is not in the house by its record":                                                        "why.merge.out",
	"The disk that was imaged was seen in PC # since":                                                   "why.elsewhere",
	"one sector can't be read":                                                                          "health.why.unreadable",
	"one sector had to be replaced":                                                                     "health.why.replaced",
	"more than a million sectors can't be read":                                                         "health.why.manyunreadable",
	"more than a million sectors had to be replaced":                                                    "health.why.manyreplaced",
	"The disk @ was erased or written in another PC after it was imaged":                                "why.disk.otherpc",
	"The disk @ was erased after it was imaged":                                                         "why.disk.erased",
	"The disk @ holds something and was neither erased nor imaged":                                      "why.disk.holds",
	"Nobody knows what is on the disk @: its last job did not end well":                                 "why.disk.unknown",
	"A disk with the numbers of @ was seen in PC # since: whether it is still in this one is not known": "why.disk.twin",
}

// english is a sentence of the appliance or of an agent.
func english(s string) Say {
	s = clean(s, maxNote)
	if id := fixed[s]; id != "" {
		return Say{ID: id}
	}
	if head, tail, ok := strings.Cut(s, ": "); ok && fixed[head] != "" {
		return Say{ID: fixed[head], Text: tail}
	}
	if m := noBytes.FindStringSubmatch(s); m != nil {
		return Say{ID: "why.nobytes", Text: m[1]}
	}
	if m := tooSmall.FindStringSubmatch(s); m != nil {
		return Say{ID: "why.small", Pairs: []any{"Disk", m[1], "Has", m[2], "Needs", m[3]}}
	}
	disk := diskPath.FindString(s)
	shape := strings.Replace(s, disk, "@", min(len(disk), 1))
	number := digits.FindString(shape)
	id := counted[strings.Replace(shape, number, "#", min(len(number), 1))]
	n, err := strconv.Atoi(number)
	switch {
	case id == "" || number != "" && err != nil:
		return Say{Text: s}
	case number == "":
		n = 1
	}
	say := Say{ID: id, Pairs: []any{"N", n, "Disk", disk}}
	if strings.Contains(s, "sector") {
		say.Count = n
	}
	return say
}

// Sentences with words in them that are different each time.
var (
	noBytes  = regexp.MustCompile(`^no byte of the image came for [0-9hms]+: (.+)$`)
	tooSmall = regexp.MustCompile(`^The disk (\S+) is too small: it has ([^;]+), the image needs ([^;]+)$`)
)

var (
	digits   = regexp.MustCompile(`[0-9]+`)
	diskPath = regexp.MustCompile(`/dev/\S*[^\s:]`)
)
