voice-call = Κλήση από { $name }
video-call = Βιντεοκλήση από { $name }
message =
    { $count ->
        [one] Μήνυμα από { $name }
       *[other] { $count } μηνύματα από { $name }
    }
missed-call =
    { $count ->
        [one] Αναπάντητη κλήση από { $name }
       *[other] { $count } αναπάντητες κλήσεις από { $name }
    }
contact-request = Αίτημα επαφής από { $name }
voicemail =
    { $count ->
        [one] Φωνητικό μήνυμα από { $name }
       *[other] { $count } φωνητικά μηνύματα από { $name }
    }
file =
    { $count ->
        [one] Αρχείο από { $name }
       *[other] { $count } αρχεία από { $name }
    }
mail = Email από { $name }
self-test = Η δοκιμαστική ειδοποίηση έφτασε
notice = Κάτι νέο από { $name }
shown-on = { $event } (εμφανίζεται στη συσκευή { $device })
accept = Αποδοχή
decline = Απόρριψη
