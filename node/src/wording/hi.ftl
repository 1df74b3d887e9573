voice-call = { $name } का कॉल आ रहा है
video-call = { $name } का वीडियो कॉल आ रहा है
message =
    { $count ->
        [one] { $name } का संदेश
       *[other] { $name } के { $count } संदेश
    }
missed-call =
    { $count ->
        [one] { $name } का छूटा हुआ कॉल
       *[other] { $name } के { $count } छूटे हुए कॉल
    }
contact-request = { $name } आपको संपर्कों में जोड़ना चाहते हैं
voicemail =
    { $count ->
        [one] { $name } का ध्वनि संदेश
       *[other] { $name } के { $count } ध्वनि संदेश
    }
file =
    { $count ->
        [one] { $name } की ओर से एक फ़ाइल
       *[other] { $name } की ओर से { $count } फ़ाइलें
    }
mail = { $name } का ईमेल
self-test = परीक्षण सूचना आ गई है
notice = { $name } की ओर से कुछ नया
shown-on = { $event } ({ $device } पर दिखाया गया)
accept = स्वीकार करें
decline = अस्वीकार करें
