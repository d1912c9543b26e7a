package papers

import "strings"

// Factor is what somebody published on one device, in kg of CO2 equivalents.
type Factor struct {
	Kg     int    `json:"kg"`
	Of     string `json:"of"` // what it measures
	Source string `json:"source"`
	Year   int    `json:"year"`
}

// Carbon is one kind of device times two published factors, the lowest and the
// highest of those that were found. Neither is the truth: they measure different
// things, and each study drew its borders elsewhere.
type Carbon struct {
	Kind  string `json:"kind"`
	Count int    `json:"count"`
	Low   Factor `json:"low"`
	High  Factor `json:"high"`
}

// LowKg and HighKg are factor × count.
func (c Carbon) LowKg() int  { return c.Count * c.Low.Kg }
func (c Carbon) HighKg() int { return c.Count * c.High.Kg }

const reuseModel = "PUC (puc.be), by a model of TU Berlin (2005) and the EU's preparatory study for ecodesign, lot 3 (2007)"

// factors by kind of device.
var factors = map[string][2]Factor{
	"laptop": {
		{69, "avoided by using one laptop three years longer in place of a new one", reuseModel, 2019},
		{225, "the making of one laptop, without shipping and use", "3 Step IT, sustainability report, figures by EY", 2017},
	},
	"desktop": {
		{109, "avoided by using one desktop PC three years longer in place of a new one, without its screen", reuseModel, 2019},
		{302, "the making of one desktop PC's parts, without assembly, shipping and use", "Fujitsu and bifa, life-cycle assessment of the ESPRIMO E9900", 2010},
	},
}

// kindOf tells laptops from desktops by the chassis type of SMBIOS (DSP0134
// §7.4.1); empty: neither.
func kindOf(chassis string) string {
	c := strings.ToLower(strings.NewReplacer("-", " ", "_", " ").Replace(chassis))
	for _, s := range []string{"laptop", "notebook", "portable", "convertible", "detachable", "netbook"} {
		if strings.Contains(c, s) {
			return "laptop"
		}
	}
	for _, s := range []string{"desktop", "tower", "pizza box", "all in one", "mini pc", "space saving", "lunch box"} {
		if strings.Contains(c, s) {
			return "desktop"
		}
	}
	return ""
}
