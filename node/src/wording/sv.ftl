voice-call = { $name } ringer
video-call = { $name } ringer med video
message =
    { $count ->
        [one] Meddelande från { $name }
       *[other] { $count } meddelanden från { $name }
    }
missed-call =
    { $count ->
        [one] Missat samtal från { $name }
       *[other] { $count } missade samtal från { $name }
    }
contact-request = { $name } vill bli din kontakt
voicemail =
    { $count ->
        [one] Röstmeddelande från { $name }
       *[other] { $count } röstmeddelanden från { $name }
    }
file =
    { $count ->
        [one] { $name } skickar en fil till dig
       *[other] { $name } skickar { $count } filer till dig
    }
mail = E-post från { $name }
self-test = Testaviseringen har kommit fram
notice = Något nytt från { $name }
shown-on = { $event } (visas på { $device })
accept = Svara
decline = Avvisa
